//! Classification and redaction of a storage driver's errors: decides if a retry helps, and which text may be shown.

use std::fmt::Write as _;

/// The class of a driver's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The same request will always be refused: another strategy is needed.
    Terminal,
    /// The driver is busy or unavailable: the same request may succeed later.
    Transient,
}

/// The part of a request that a refusal depends on; determines for which other clones it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One object, such as the source: a refusal says nothing about another clone.
    Object,
    /// The request: size, modes, attributes, credentials, quota. A refusal counts for a similar request of the same namespace.
    Request,
    /// The driver's capabilities with the StorageClass, for every requester.
    StorageClass,
}

/// A classified error of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complaint {
    /// Its class.
    pub class: Class,
    /// Its scope.
    pub scope: Scope,
    /// A machine-readable code: the gRPC code, or the code of a known text; `Unknown` if there is neither.
    pub code: &'static str,
}

/// True if the driver reports that the request is in progress: `Aborted` means that an operation for the volume is pending (CSI
/// specification, error scheme of CreateVolume), and the provisioner retries.
pub fn is_progress(text: &str) -> bool {
    classify(text).code == "Aborted"
}

/// True if an error with this code is about the requested size.
pub fn is_about_size(code: &str) -> bool {
    ["OutOfRange", "SizeMismatch"].contains(&code)
}

/// gRPC codes, and their meaning for a requested volume or snapshot.
///
/// The provisioner repeats the same request after every answer, so only the driver's error tells if that helps. Unauthenticated is
/// transient: the storage refuses the driver's credentials, and no other strategy would change that. ResourceExhausted is back-pressure for
/// some drivers and a full pool for others; the deadline of the attempt distinguishes them.
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

/// Codes without information: a known text, or the code of a quoted inner error, is more precise.
const VAGUE: [&str; 2] = ["Internal", "Unknown"];

/// Known texts of sidecars and drivers in lower case. All parts of an entry must occur, in any order; the first match counts. The text
/// decides if the code is vague or missing (errors of the sidecars themselves have none).
const TEXTS: [(&[&str], Class, Scope, &str); 33] = [
    // The sidecar retries until the source is ready; these are no refusals.
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
    // A limit that is no longer reached when other clones delete their snapshots.
    (&["maximum", "snapshots"], Class::Transient, Scope::Object, "TooManySnapshots"),
    (&["max", "snapshots", "exceeded"], Class::Transient, Scope::Object, "TooManySnapshots"),
    // Volume mode: external-provisioner's check, and its older form for claims.
    (&["modifies the mode of the source volume"], Class::Terminal, Scope::Request, "VolumeModeChange"),
    (&["allow-volume-mode-change"], Class::Terminal, Scope::Request, "VolumeModeChange"),
    (&["must have the same volume mode"], Class::Terminal, Scope::Request, "VolumeModeChange"),
    // Sizes: external-provisioner's checks, and drivers' messages.
    (&["requested volume size", "less than"], Class::Terminal, Scope::Request, "SizeMismatch"),
    (&["requested volume size", "greater than"], Class::Terminal, Scope::Request, "SizeMismatch"),
    (&["must be greater than or equal in size"], Class::Terminal, Scope::Request, "SizeMismatch"),
    (&["size", "does not match", "source"], Class::Terminal, Scope::Request, "SizeMismatch"),
    (&["must be the same size"], Class::Terminal, Scope::Request, "SizeMismatch"),
    // Features that the driver does not support.
    (&["not support", "snapshot"], Class::Terminal, Scope::StorageClass, "SnapshotNotSupported"),
    (&["not supported", "snapshot"], Class::Terminal, Scope::StorageClass, "SnapshotNotSupported"),
    (&["not support", "clon"], Class::Terminal, Scope::StorageClass, "CloneNotSupported"),
    (&["cannot clone"], Class::Terminal, Scope::StorageClass, "CloneNotSupported"),
    (&["not support", "expan"], Class::Terminal, Scope::Request, "ExpansionNotSupported"),
    (&["unsupported volume content source"], Class::Terminal, Scope::StorageClass, "CloneNotSupported"),
    // Constraints of the driver: another pool, another class, another encryption.
    (&["different pool"], Class::Terminal, Scope::StorageClass, "OtherPool"),
    (&["different storage pool"], Class::Terminal, Scope::StorageClass, "OtherPool"),
    (&["not in the same pool"], Class::Terminal, Scope::StorageClass, "OtherPool"),
    (&["same storageclass"], Class::Terminal, Scope::StorageClass, "OtherClass"),
    (&["encrypted", "unencrypted"], Class::Terminal, Scope::StorageClass, "EncryptionDiffers"),
    (&["not supported"], Class::Terminal, Scope::Request, "NotSupported"),
];

/// Classifies `text`: the message of an event of external-provisioner, -snapshotter or -resizer, or of `VolumeSnapshot.status.error`.
///
/// The outermost gRPC code is the answer that the sidecar received. If it is vague, a known text decides, then the first quoted code that
/// is not vague. A known text also outranks FailedPrecondition, which may be temporary. An unknown error is transient.
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

/// True for an update conflict: two writers updated the same object, and one of them retries.
pub fn is_conflict(text: &str) -> bool {
    text.contains("Operation cannot be fulfilled on") && text.contains("the object has been modified")
}

/// All gRPC codes in `text` as Go prints them (`rpc error: code = Aborted desc = …`), outermost first.
fn codes(text: &str) -> impl Iterator<Item = Complaint> {
    text.split("code = ").skip(1).filter_map(|rest| {
        let word = rest.split(|c: char| !c.is_ascii_alphabetic()).next()?;
        let known = CODES.iter().find(|(code, ..)| *code == word);
        known.map(|(code, class, scope)| Complaint { class: *class, scope: *scope, code })
    })
}

/// The length of the longest shown text, in characters.
const SHOWN: usize = 512;
/// The replacement for a secret. It is never longer than the secret, so that a text only shrinks.
const MASK: &str = "***";
/// The length in characters from which a run without a space may be a key.
const RUN: usize = 40;

/// Redacts `text` for tenants: removes secrets and control characters, and limits it to 512 characters.
///
/// Hides the values of keys with secret names (`password=…`, `"token": "…"`), credentials in URLs, PEM blocks, and long runs of base64. In
/// doubt it hides: a missing word does less harm than a leaked secret.
pub fn redact(text: &str) -> String {
    // A removal may join two parts into a secret, so this repeats until nothing changes. Each round only hides or cuts.
    let mut text = text.to_owned();
    loop {
        let next = bounded(without_runs(&without_credentials(&without_values(&plain(&without_pem(&text))))));
        if next == text {
            return text;
        }
        text = next;
    }
}

/// The mask for `secret`; a mask stays as it is.
fn mask(secret: &str) -> &'static str {
    match secret.chars().count() {
        0 => "",
        1 => "*",
        2 => "**",
        _ => MASK,
    }
}

/// Removes PEM blocks, also truncated ones.
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

/// Removes terminal control: control characters, invisible ones, and those that change the writing direction.
fn plain(text: &str) -> String {
    let invisible =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.chars().filter(|c| !invisible(*c)).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// True if a key of this name holds a secret. The name *of* a secret is no secret.
fn secret(key: &str) -> bool {
    const WORDS: [&str; 7] = ["password", "passwd", "passphrase", "secret", "token", "credential", "authorization"];
    let key = key.to_ascii_lowercase();
    let names_only = key.ends_with("name") || key.ends_with("namespace");
    !names_only && (key.ends_with("key") || WORDS.iter().any(|word| key.contains(word)))
}

/// Masks the values of keys with secret names: `key=value`, `key: value`, `"key":"value"`, `key: Bearer value`.
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

/// Writes `value` with its leading secret masked; returns the rest.
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

/// Masks `user:password@` in URLs.
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

/// Masks long runs of base64 or hexadecimal digits, and JSON web tokens. Volume names are not affected (they have hyphens); a path is
/// masked only if it mixes upper case, lower case and digits as base64 does.
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
    // Three characters fewer than the limit: the ellipsis has three bytes, and the text may not grow.
    text.chars().take(SHOWN - 3).chain(['…']).collect()
}

#[cfg(test)]
mod tests;
