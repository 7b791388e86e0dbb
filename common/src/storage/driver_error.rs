//! Classification and redaction of a storage driver's errors: whether waiting helps, and which text may be shown.

use std::fmt::Write as _;

/// What to do about a complaint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The same request will be refused for ever: another strategy is needed.
    Terminal,
    /// The driver is busy or cut off: the same request may succeed later.
    Transient,
}

/// What a refusal depends on, which says for which other clones it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One object, such as the source: a refusal says nothing about another clone.
    Object,
    /// What is asked for: size, modes, attributes, credentials, quota. A refusal counts for a similar request of the same namespace.
    Request,
    /// What the driver can do with the StorageClass, whoever asks.
    StorageClass,
}

/// A complaint, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complaint {
    /// What to do about it.
    pub class: Class,
    /// What it depends on.
    pub scope: Scope,
    /// One word for programs: the gRPC code, or what a known text means; `Unknown` where there is neither.
    pub code: &'static str,
}

/// True if the driver says that it is still at work on the request: `Aborted` means an operation that is pending for the volume (CSI
/// specification, error scheme of CreateVolume), which the provisioner asks about again and again.
pub fn is_progress(text: &str) -> bool {
    classify(text).code == "Aborted"
}

/// True if a complaint with this code is about the size that was asked for.
pub fn is_about_size(code: &str) -> bool {
    ["OutOfRange", "SizeMismatch"].contains(&code)
}

/// gRPC codes, and what they mean for a volume or snapshot that was asked for.
///
/// The provisioner repeats the same request with the same name whatever the answer was, so only what the driver says tells whether that
/// helps. Unauthenticated is transient: it is the driver that isn't let in by its storage, which no other strategy would cure.
/// ResourceExhausted is back-pressure for some drivers and a full pool for others; the deadline of the attempt tells them apart.
///
/// The scope follows the CSI specification's error schemes of CreateVolume and CreateSnapshot: OutOfRange is about the capacity range,
/// InvalidArgument about fields of the request, NotFound and AlreadyExists about the source or the name, PermissionDenied about the
/// secrets, which a StorageClass may choose by namespace.
const CODES: [(&str, Class, Scope); 16] = [
    ("InvalidArgument", Class::Terminal, Scope::Request),
    ("NotFound", Class::Terminal, Scope::Object),
    ("AlreadyExists", Class::Terminal, Scope::Object),
    ("PermissionDenied", Class::Terminal, Scope::Request),
    ("FailedPrecondition", Class::Terminal, Scope::StorageClass),
    ("OutOfRange", Class::Terminal, Scope::Request),
    ("Unimplemented", Class::Terminal, Scope::StorageClass),
    ("DataLoss", Class::Terminal, Scope::Object),
    ("Aborted", Class::Transient, Scope::Object),
    ("Canceled", Class::Transient, Scope::Object),
    ("DeadlineExceeded", Class::Transient, Scope::Object),
    ("Unavailable", Class::Transient, Scope::Object),
    ("ResourceExhausted", Class::Transient, Scope::Request),
    ("Unauthenticated", Class::Transient, Scope::Object),
    ("Internal", Class::Transient, Scope::Object),
    ("Unknown", Class::Transient, Scope::Object),
];

/// Codes that say nothing by themselves: a known text, or the code of an error that is quoted inside, says more.
const VAGUE: [&str; 2] = ["Internal", "Unknown"];

/// What sidecars and drivers say in words, in lower case: all parts of an entry, in any order. The first entry that applies counts.
/// Where the code says little (or there is none: the sidecars' own complaints have none), the text decides.
const TEXTS: [(&[&str], Class, Scope, &str); 33] = [
    // Asked for again by the sidecar until it is so; nobody has refused anything.
    (&["not bound"], Class::Transient, Scope::Object, "SourceNotReady"),
    (&["not yet bound"], Class::Transient, Scope::Object, "SourceNotReady"),
    (&["not ready"], Class::Transient, Scope::Object, "SourceNotReady"),
    (&["not in bound state"], Class::Transient, Scope::Object, "SourceNotReady"),
    (&["already exists", "operation"], Class::Transient, Scope::Object, "InProgress"),
    (&["in progress"], Class::Transient, Scope::Object, "InProgress"),
    (&["timed out"], Class::Transient, Scope::Object, "DeadlineExceeded"),
    (&["deadline exceeded"], Class::Transient, Scope::Object, "DeadlineExceeded"),
    (&["connection refused"], Class::Transient, Scope::Object, "Unavailable"),
    (&["too many requests"], Class::Transient, Scope::Request, "ResourceExhausted"),
    (&["rate limit"], Class::Transient, Scope::Request, "ResourceExhausted"),
    // A limit that is lowered again by the clones that are done with their snapshots.
    (&["maximum", "snapshots"], Class::Transient, Scope::Object, "TooManySnapshots"),
    (&["max", "snapshots", "exceeded"], Class::Transient, Scope::Object, "TooManySnapshots"),
    // The volume mode: external-provisioner's protection, and its older form for claims.
    (&["modifies the mode of the source volume"], Class::Terminal, Scope::Request, "VolumeModeChange"),
    (&["allow-volume-mode-change"], Class::Terminal, Scope::Request, "VolumeModeChange"),
    (&["must have the same volume mode"], Class::Terminal, Scope::Request, "VolumeModeChange"),
    // Sizes: external-provisioner's own checks, and what drivers say.
    (&["requested volume size", "less than"], Class::Terminal, Scope::Request, "SizeMismatch"),
    (&["requested volume size", "greater than"], Class::Terminal, Scope::Request, "SizeMismatch"),
    (&["must be greater than or equal in size"], Class::Terminal, Scope::Request, "SizeMismatch"),
    (&["size", "does not match", "source"], Class::Terminal, Scope::Request, "SizeMismatch"),
    (&["must be the same size"], Class::Terminal, Scope::Request, "SizeMismatch"),
    // What a driver can't do at all.
    (&["not support", "snapshot"], Class::Terminal, Scope::StorageClass, "SnapshotNotSupported"),
    (&["not supported", "snapshot"], Class::Terminal, Scope::StorageClass, "SnapshotNotSupported"),
    (&["not support", "clon"], Class::Terminal, Scope::StorageClass, "CloneNotSupported"),
    (&["cannot clone"], Class::Terminal, Scope::StorageClass, "CloneNotSupported"),
    (&["not support", "expan"], Class::Terminal, Scope::Request, "ExpansionNotSupported"),
    (&["unsupported volume content source"], Class::Terminal, Scope::StorageClass, "CloneNotSupported"),
    // Where a driver can't: another pool, another node, another key.
    (&["different pool"], Class::Terminal, Scope::StorageClass, "OtherPool"),
    (&["different storage pool"], Class::Terminal, Scope::StorageClass, "OtherPool"),
    (&["not in the same pool"], Class::Terminal, Scope::StorageClass, "OtherPool"),
    (&["same storageclass"], Class::Terminal, Scope::StorageClass, "OtherClass"),
    (&["encrypted", "unencrypted"], Class::Terminal, Scope::StorageClass, "EncryptionDiffers"),
    (&["not supported"], Class::Terminal, Scope::Request, "NotSupported"),
];

/// What `text` means: the message of an event of external-provisioner, -snapshotter or -resizer, or of `VolumeSnapshot.status.error`.
///
/// The outermost gRPC code is the answer that the sidecar got. One that says nothing is asked further: for a known text, then for a code
/// that it quotes. A precondition that is only not met *yet* is known by its text. What nobody understands may pass.
pub fn classify(text: &str) -> Complaint {
    let lower = text.to_ascii_lowercase();
    let known = TEXTS.iter().find(|(parts, ..)| parts.iter().all(|part| lower.contains(part)));
    let known = known.map(|(_, class, scope, code)| Complaint { class: *class, scope: *scope, code });
    let mut codes = codes(text);
    match codes.next() {
        Some(code) if VAGUE.contains(&code.code) => {
            known.or_else(|| codes.find(|inner| !VAGUE.contains(&inner.code))).unwrap_or(code)
        }
        Some(code) if code.code == "FailedPrecondition" => known.unwrap_or(code),
        Some(code) => code,
        None => known.unwrap_or(Complaint { class: Class::Transient, scope: Scope::Object, code: "Unknown" }),
    }
}

/// Two programs wrote the same object, and one has to do it again. It will.
pub fn is_conflict(text: &str) -> bool {
    text.contains("Operation cannot be fulfilled on") && text.contains("the object has been modified")
}

/// Every gRPC code in `text` as Go prints it (`rpc error: code = Aborted desc = …`), outermost first.
fn codes(text: &str) -> impl Iterator<Item = Complaint> {
    text.split("code = ").skip(1).filter_map(|rest| {
        let word = rest.split(|c: char| !c.is_ascii_alphabetic()).next()?;
        let known = CODES.iter().find(|(code, ..)| *code == word);
        known.map(|(code, class, scope)| Complaint { class: *class, scope: *scope, code })
    })
}

/// The longest text that is shown, in characters.
const SHOWN: usize = 512;
/// What stands for a secret. Never longer than it, so that a text only ever shrinks.
const MASK: &str = "***";
/// Runs of this many characters without a space may be a key.
const RUN: usize = 40;

/// `text` as it may be shown to a tenant: without secrets and control characters, at most 512 characters.
///
/// Hidden are values of names that sound secret (`password=…`, `"token": "…"`), credentials in URLs, PEM blocks, and long runs of base64.
/// What this hides too much is a word less to read; what it hides too little can't be taken back.
pub fn redact(text: &str) -> String {
    // A cut may join what was apart, so it is looked at until there is nothing left to hide. Each round only hides or cuts.
    let mut text = text.to_owned();
    loop {
        let next = bounded(without_runs(&without_credentials(&without_values(&plain(&without_pem(&text))))));
        if next == text {
            return text;
        }
        text = next;
    }
}

/// What stands for `secret`; what is masked already stays as it is.
fn mask(secret: &str) -> &'static str {
    match secret.chars().count() {
        0 => "",
        1 => "*",
        2 => "**",
        _ => MASK,
    }
}

/// Without PEM blocks, also those that were cut off before their end.
fn without_pem(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, block)) = rest.split_once("-----BEGIN ") {
        shown.push_str(before);
        shown.push_str(MASK);
        rest =
            block.split_once("-----END ").map_or("", |(_, end)| end.split_once("-----").map_or("", |(_, after)| after));
    }
    shown.push_str(rest);
    shown
}

/// Without what a terminal would obey: control characters, and those that turn the direction of writing or can't be seen.
fn plain(text: &str) -> String {
    let invisible =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.chars().filter(|c| !invisible(*c)).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether a value of this name is nobody's business. A name *of* a secret is no secret.
fn secret(key: &str) -> bool {
    const WORDS: [&str; 7] = ["password", "passwd", "passphrase", "secret", "token", "credential", "authorization"];
    let key = key.to_ascii_lowercase();
    let names_only = key.ends_with("name") || key.ends_with("namespace");
    !names_only && (key.ends_with("key") || WORDS.iter().any(|word| key.contains(word)))
}

/// Without the values of names that sound secret: `key=value`, `key: value`, `"key":"value"`, `key: Bearer value`.
fn without_values(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = rest.split_at(at);
        let (separator, value) = after.split_at(1);
        shown.push_str(before);
        shown.push_str(separator);
        rest = value;
        let name = before.trim_end().trim_end_matches(['"', '\'', '\\']);
        let word_start = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if secret(name.rsplit(word_start).next().unwrap_or_default()) {
            rest = hide_value(value, &mut shown);
        }
    }
    shown.push_str(rest);
    shown
}

/// Writes `value` without the secret that it begins with; returns what follows.
fn hide_value<'a>(value: &'a str, shown: &mut String) -> &'a str {
    let blank = value.len() - value.trim_start_matches([' ', '=']).len();
    let (blank, mut secret) = value.split_at(blank);
    shown.push_str(blank);
    for scheme in ["Bearer ", "Basic "] {
        if let Some(credential) = secret.strip_prefix(scheme) {
            shown.push_str(scheme);
            secret = credential;
        }
    }
    let opening = secret.len() - secret.trim_start_matches(['"', '\'', '\\']).len();
    let (quote, secret) = secret.split_at(opening);
    shown.push_str(quote);
    let end = match quote.chars().next_back() {
        Some(quote) => secret.find([quote, '\\']),
        None => secret.find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | ')' | ']' | '}' | '"' | '\'')),
    };
    let (secret, rest) = secret.split_at(end.unwrap_or(secret.len()));
    shown.push_str(mask(secret));
    rest
}

/// Without the `user:password@` of URLs.
fn without_credentials(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, url)) = rest.split_once("://") {
        let end =
            url.find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'')).unwrap_or(url.len());
        let (authority, after) = url.split_at(end);
        let _ = match authority.rsplit_once('@') {
            Some((user, host)) => write!(shown, "{before}://{}@{host}", mask(user)),
            None => write!(shown, "{before}://{authority}"),
        };
        rest = after;
    }
    shown.push_str(rest);
    shown
}

/// Without long runs of base64 or hexadecimal digits, and without JSON web tokens. Names of volumes are no runs (they have hyphens), and a
/// path is one only where it looks like base64 that happens to have slashes.
fn without_runs(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for word in
        text.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_' | '.')))
    {
        if word.starts_with("eyJ") && word.len() >= RUN / 2 {
            let end = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len();
            let (token, after) = word.split_at(end);
            shown.push_str(mask(token));
            shown.push_str(after);
            continue;
        }
        for run in word.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '='))) {
            let end =
                run.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '='))).len();
            let (body, after) = run.split_at(end);
            let has = |test: fn(&char) -> bool| body.chars().any(|c| test(&c));
            let path = body.contains('/')
                && !(has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase) && has(char::is_ascii_digit));
            if body.len() >= RUN && !path {
                shown.push_str(mask(body));
                shown.push_str(after);
            } else {
                shown.push_str(run);
            }
        }
    }
    shown
}

/// The beginning of a longer text.
fn bounded(text: String) -> String {
    if text.chars().count() <= SHOWN {
        return text;
    }
    // Three characters fewer than may be shown: the ellipsis has three bytes, and the text may not grow.
    text.chars().take(SHOWN - 3).chain(['…']).collect()
}

#[cfg(test)]
mod tests;
