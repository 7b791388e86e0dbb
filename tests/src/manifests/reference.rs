//! `docs/reference.md`: keys, reasons, conditions, metrics and flags, read off the code that defines them.
//!
//! Flags come from clap. Everything else is read off the source text, because documentation is no value at run time, and a registry of
//! metrics shows no family that is empty. Tests fail when the sources change their form.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Command, CommandFactory as _};
use common::{
    api::Phase,
    clone::{
        contract::{STATES, StateRow, WAITS, WaitRow},
        decide::FallbackCode,
        wait::EndsBy,
    },
};

mod fields;

/// Path of the page below `docs/`.
pub const PAGE: &str = "reference.md";

/// The files that the page is read off: all paths are here.
mod sources {
    /// Constants of keys; a comment `// Title.` begins each part.
    pub const KEYS: &str = include_str!("../../../common/src/keys.rs");
    /// The enum `Waiting`.
    pub const WAITING: &str = include_str!("../../../common/src/clone/wait.rs");
    /// The types of conditions.
    pub const CONDITIONS: &str = include_str!("../../../common/src/condition.rs");
    /// The functions `bound`, `running` and `ready`, which set the conditions.
    pub const STATUS: &str = include_str!("../../../common/src/clone/status.rs");
    /// Registrations of metrics.
    pub const METRICS: [&str; 6] = [
        include_str!("../../../certs/src/metrics.rs"),
        include_str!("../../../webhook/src/metrics.rs"),
        include_str!("../../../controller/src/metrics.rs"),
        include_str!("../../../controller/src/mode.rs"),
        include_str!("../../../controller/src/profile.rs"),
        include_str!("../../../config/src/metrics.rs"),
    ];
}

/// Who writes each key. On temporary objects and while a policy guards a key, nobody else may.
const WRITERS: [(&str, &[&str]); 15] = [
    ("user, webhook; after creation the controller", &["cdi.kubevirt.io/cloneType"]),
    (
        "user",
        &[
            "cdi.kubevirt.io/storage.bind.immediate.requested",
            "cdi.kubevirt.io/allowClaimAdoption",
            "cdi.kubevirt.io/storage.checkStaticVolume",
            "cdi.kubevirt.io/storage.import.sourceVolumeMode",
            "cdi.kubevirt.io/dataSourceNamespace",
            "smartclone.dev/fallback",
            "smartclone.dev/consistency",
            "smartclone.dev/file-owners",
        ],
    ),
    ("user, backup; controller for an ObjectTransfer", &["cdi.kubevirt.io/storage.populatedFor"]),
    ("user, backup; webhook beside CDI; controller for an ObjectTransfer", &["cdi.kubevirt.io/storage.prePopulated"]),
    ("webhook, controller beside CDI", &["cdi.kubevirt.io/storage.usePopulator", "smartclone.dev/beside-cdi"]),
    (
        "CDI",
        &[
            "cdi.kubevirt.io/storage.clone.token",
            "cdi.kubevirt.io/applyStorageProfile",
            "cdi.kubevirt.io/storage.extended.clone.token",
            "cdi.kubevirt.io/OwnedByUID",
        ],
    ),
    ("user; admin", &["smartclone.dev/deadline"]),
    ("user; controller", &["cdi.kubevirt.io/storage.contentType"]),
    (
        "admin",
        &[
            "smartclone.dev/max-deadline",
            "cdi.kubevirt.io/configAuthority",
            "cdi.kubevirt.io/clone-strategy",
            "smartclone.dev/restore-size",
            "cdi.kubevirt.io/minimumSupportedPvcSize",
            "smartclone.dev/compatible-with",
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.kubevirt.io/is-default-virt-class",
            "snapshot.storage.kubernetes.io/is-default-class",
        ],
    ),
    ("webhook", &["smartclone.dev/requester"]),
    (
        "webhook; controller",
        &[
            "cdi.kubevirt.io/cloneFallbackReason",
            "smartclone.dev/plan",
            "smartclone.dev/ownership-key",
            "app",
            "app.kubernetes.io/name",
            "app.kubernetes.io/component",
        ],
    ),
    (
        "controller",
        &[
            "cdi.kubevirt.io/clonePhase",
            "cdi.kubevirt.io/createdForDataVolume",
            "cdi.kubevirt.io/storage.populator.progress",
            "cdi.kubevirt.io/storage.condition.running",
            "cdi.kubevirt.io/storage.condition.running.message",
            "cdi.kubevirt.io/storage.condition.running.reason",
            "cdi.kubevirt.io/storage.condition.bound",
            "cdi.kubevirt.io/storage.condition.bound.message",
            "cdi.kubevirt.io/storage.condition.bound.reason",
            "smartclone.dev/owned-by",
            "smartclone.dev/copied",
            "smartclone.dev/fills",
            "smartclone.dev/members",
            "smartclone.dev/status",
            "smartclone.dev/proof",
            "smartclone.dev/nudged",
            "smartclone.dev/owned-by-uid",
            "velero.io/exclude-from-backup",
            "alerts.k8s.io/KubePersistentVolumeFillingUp",
            "smartclone.dev/hand-over",
            "smartclone.dev/handed-over",
            "smartclone.dev/transfer",
            "smartclone.dev/reclaim-policy",
            "cdi.kubevirt.io/objectTransfer",
            "smartclone.dev/inherited-labels",
            "smartclone.dev/refusals",
        ],
    ),
    (
        "CDI; removed by the controller",
        &["cdi.kubevirt.io/dataVolumeFinalizer", "cdi.kubevirt.io/clonePopulator", "cdi.kubevirt.io/cloneSource"],
    ),
    (
        "user; webhook, controller",
        &[
            "instancetype.kubevirt.io/default-instancetype",
            "instancetype.kubevirt.io/default-instancetype-kind",
            "instancetype.kubevirt.io/default-preference",
            "instancetype.kubevirt.io/default-preference-kind",
        ],
    ),
    ("Kubernetes' scheduler; controller", &["volume.kubernetes.io/selected-node"]),
];

/// The page.
pub fn page() -> Result<String> {
    let mut page = "# Reference\n\nWritten by `cargo manifests`: change the code, not this file.\n".to_owned();
    keys(&mut page)?;
    reasons(&mut page)?;
    conditions(&mut page)?;
    contract(&mut page)?;
    fields::write(&mut page)?;
    page.push_str("\n## Metrics\n\n| metric | meaning |\n|---|---|\n");
    for metric in sources::METRICS.iter().flat_map(|source| metrics(source)) {
        writeln!(page, "| `{}` | {} |", metric.name(), metric.about)?;
    }
    flags(&mut page, "webhook", &webhook::Args::command())?;
    flags(&mut page, "controller", &controller::Args::command())?;
    Ok(page)
}

fn keys(page: &mut String) -> Result<()> {
    let values: BTreeMap<_, _> = constants(sources::KEYS).into_iter().map(|it| (it.name, it.value)).collect();
    page.push_str("\n## Annotations, labels and finalizers\n");
    for (title, part) in parts(sources::KEYS) {
        let keys: Vec<_> = constants(part).into_iter().filter(Constant::is_key).collect();
        if keys.is_empty() {
            continue;
        }
        write!(page, "\n### {title}\n\n| key | written by | meaning |\n|---|---|---|\n")?;
        for key in keys {
            let writer = WRITERS.iter().find(|(_, keys)| keys.contains(&key.value));
            let (writer, _) = writer.with_context(|| format!("WRITERS does not say who writes {}", key.value))?;
            writeln!(page, "| `{}` | {writer} | {} |", key.value, cell(&key.about, &values))?;
        }
    }
    Ok(())
}

fn reasons(page: &mut String) -> Result<()> {
    page.push_str(
        "\n## Reasons to wait\n\n[troubleshooting.md](troubleshooting.md#reasons) has the cure of each.\n\n\
         | reason | meaning |\n|---|---|\n",
    );
    for (reason, about) in waiting(sources::WAITING)? {
        writeln!(page, "| `{reason}` | {about} |")?;
    }
    page.push_str(
        "\n## Fallback reasons\n\n[deciding.md](deciding.md#rules-of-feasibility-and-fallback-reasons) has the rule of each.\n\n",
    );
    for reason in fallback_reasons() {
        writeln!(page, "- `{reason}`")?;
    }
    Ok(())
}

fn conditions(page: &mut String) -> Result<()> {
    page.push_str(
        "\n## Conditions of a DataVolume\n\nA clone that waits has the reason to wait instead.\n\n\
         | type | meaning | reasons |\n|---|---|---|\n",
    );
    for kind in constants(sources::CONDITIONS) {
        let function = format!("fn {}(", kind.name.to_lowercase());
        let (_, body) = sources::STATUS.split_once(&function).with_context(|| format!("there is no {function:?}"))?;
        let body = body.split_once("\n}").map_or(body, |(body, _)| body);
        // The reason is the second of three: status, reason, message.
        let tuples = body.split('(').filter_map(|text| {
            text.strip_prefix("true, \"").or_else(|| text.strip_prefix("false, \""))?.split('"').next()
        });
        let reasons: Vec<_> = tuples.map(|reason| format!("`{reason}`")).collect();
        ensure!(!reasons.is_empty(), "the condition {} has no reasons", kind.value);
        writeln!(page, "| `{}` | {} | {} |", kind.value, kind.about, reasons.join(", "))?;
    }
    Ok(())
}

/// The phases, conditions and events that clients rely on.
fn contract(page: &mut String) -> Result<()> {
    let list = |phases: &[Phase]| phases.iter().map(|phase| format!("`{phase}`")).collect::<Vec<_>>().join(", ");
    page.push_str(
        "\n## Phases, conditions and events\n\nKubeVirt, Velero's plugin and CDI's own clients rely on them. A status always has a phase and the three \
         conditions; `Ready` is `True` if and only if the phase is `Succeeded`.\n\nStates in which nothing is waited for:\n\n\
         | phase | case | Bound | Running | Ready | event | machine in KubeVirt |\n|---|---|---|---|---|---|---|\n",
    );
    for row in STATES {
        let (phases, StateRow { case, bound, running, ready, event, kubevirt, .. }) = (list(row.phases), *row);
        writeln!(page, "| {phases} | {case} | {bound} | {running} | {ready} | {event} | {kubevirt} |")?;
    }
    page.push_str(
        "\nReasons to wait. `Bound` is `False` with this reason while there is no claim, and `False` `Pending` while the claim is not bound. A \
         wait that ends by *work* has `Running` `True` and `Ready` `TransferRunning`; any other one has `Running` `False` and `Ready` `False`, both with \
         the reason, and an event: `Normal` where it ends by an *event*, `Warning` where it takes an *action*.\n\n\
         | reason | case | ends by | phases | machine in KubeVirt | in CDI |\n|---|---|---|---|---|---|\n",
    );
    for row in WAITS {
        let ends_by = match row.ends_by {
            EndsBy::Work => "work",
            EndsBy::Event => "an event",
            EndsBy::Action => "an action",
        };
        let running = row.running_reason.map(|reason| format!(" (`Running`: `{reason}`)")).unwrap_or_default();
        let (phases, WaitRow { reason, case, kubevirt, source, .. }) = (list(row.phases), *row);
        writeln!(page, "| `{reason}`{running} | {case} | {ends_by} | {phases} | {kubevirt} | {source} |")?;
    }
    Ok(())
}

fn flags(page: &mut String, program: &str, command: &Command) -> Result<()> {
    write!(page, "\n## Flags of the {program}\n\n| flag | variable | default | meaning |\n|---|---|---|---|\n")?;
    for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
        let Some(name) = flag.get_long().filter(|name| !matches!(*name, "help" | "version")) else { continue };
        let variable = flag.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let default: Vec<_> =
            flag.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
        let about = flag.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(page, "| `--{name}` | {variable} | {} | {} |", default.join(" "), about.replace('|', "\\|"))?;
    }
    Ok(())
}

/// A constant of a source file with its documentation.
struct Constant<'a> {
    name: &'a str,
    value: &'a str,
    about: String,
}

impl Constant<'_> {
    /// An annotation, label or finalizer: a domain, a slash, a name; or a constant that says that it is a label.
    fn is_key(&self) -> bool {
        let has_domain = |(domain, name): (&str, &str)| domain.contains('.') && !name.is_empty();
        self.name.ends_with("_LABEL") || self.value.split_once('/').is_some_and(has_domain)
    }
}

/// All public constants of type `&str`.
fn constants(source: &str) -> Vec<Constant<'_>> {
    let mut about = Vec::new();
    let mut found = Vec::new();
    for line in source.lines().map(str::trim_start) {
        if let Some(text) = line.strip_prefix("/// ") {
            about.push(text);
            continue;
        }
        let constant = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(": &str = \""));
        if let Some((name, value)) = constant.and_then(|(name, rest)| Some((name, rest.strip_suffix("\";")?))) {
            found.push(Constant { name, value, about: about.join(" ") });
        }
        about.clear();
    }
    found
}

/// The parts of a source file, each with the title in the comment that begins it.
fn parts(source: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = source.split("\n// ").skip(1);
    parts.filter_map(|part| part.split_once(".\n"))
}

/// Documentation as a cell of a table: links to constants become their values, links to other items their names.
fn cell(about: &str, values: &BTreeMap<&str, &str>) -> String {
    let mut text = about.replace('|', "\\|");
    for (name, value) in values {
        text = text.replace(&format!("[`{name}`]"), &format!("`{value}`"));
    }
    text
}

/// The reasons of `Waiting`, each with the documentation of its variant.
fn waiting(source: &str) -> Result<Vec<(&str, String)>> {
    let (_, variants) = source.split_once("pub enum Waiting {").context("there is no enum Waiting")?;
    let (mut about, mut documented) = (Vec::new(), BTreeMap::new());
    for line in variants.lines().take_while(|line| *line != "}") {
        if let Some(text) = line.strip_prefix("    /// ") {
            about.push(text);
        } else if let Some(variant) = line.strip_prefix("    ").filter(|rest| rest.starts_with(char::is_alphabetic)) {
            documented.insert(word(variant), std::mem::take(&mut about).join(" "));
        }
    }
    let (_, body) = source.split_once("pub fn reason(&self)").context("there is no function reason")?;
    let (body, _) = body.split_once("\n    }\n").context("the function reason has no end")?;
    let mut found = Vec::new();
    for arm in body.lines() {
        let Some((pattern, reason)) = arm.trim().split_once(" => ") else { continue };
        let Some(variant) = pattern.strip_prefix("Self::").map(word) else { continue };
        let about = documented.get(variant).with_context(|| format!("{variant} has no documentation"))?;
        match reason.strip_prefix('"').and_then(|reason| reason.strip_suffix("\",")) {
            Some(reason) => found.push((reason, about.clone())),
            // A constant list instead of a word: the two reasons of a refused write.
            None => found.extend(refused(source)?.map(|reason| (reason, about.clone()))),
        }
    }
    Ok(found)
}

/// The identifier that a text begins with.
fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()
}

/// The reasons of a refused write.
fn refused(source: &str) -> Result<impl Iterator<Item = &str>> {
    let (_, list) = source.split_once("const REFUSED: [&str; 2] = [").context("there is no constant REFUSED")?;
    let (list, _) = list.split_once(']').context("REFUSED has no end")?;
    Ok(list.split(", ").map(|word| word.trim_matches('"')))
}

/// The fallback reasons.
fn fallback_reasons() -> BTreeSet<&'static str> {
    FallbackCode::ALL.iter().map(|code| code.as_str()).collect()
}

/// Two words or more, joined, each with a capital.
#[cfg(test)]
fn is_reason(text: &str) -> bool {
    let capitals = text.chars().filter(char::is_ascii_uppercase).count();
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(char::is_alphanumeric)
        && (2..text.len()).contains(&capitals)
}

/// A registered metric.
#[derive(Debug, PartialEq, Eq)]
struct Metric<'a> {
    base: &'a str,
    about: &'a str,
    suffix: &'static str,
}

impl Metric<'_> {
    /// The name that is scraped.
    fn name(&self) -> String {
        format!("smartclone_{}{}", self.base, self.suffix)
    }
}

/// Everything that is registered. The type of a metric shows in how it is made.
fn metrics(source: &str) -> Vec<Metric<'_>> {
    let calls = source.split("registry.register").skip(1);
    calls
        .filter_map(|call| {
            let (arguments, _) = call.split_once(");")?;
            let mut literals = arguments.split('"').skip(1).step_by(2);
            let (base, about) = (literals.next()?, literals.next()?);
            let made = arguments.split(',').rfind(|argument| !argument.trim().is_empty())?.trim();
            let suffix = suffix(source, made, arguments.contains("Unit::Seconds"));
            Some(Metric { base, about, suffix })
        })
        .collect()
}

/// What the encoder appends to a name: `made` is the last argument of the registration, such as `inner.actions.clone()`.
fn suffix(source: &str, made: &str, in_seconds: bool) -> &'static str {
    let field = made.trim_end_matches(".clone()").rsplit('.').next().unwrap_or_default();
    let declared = |kind: &str| {
        source.lines().filter(|line| line.contains(kind)).any(|line| {
            let (name, _) = line.split_once(':').unwrap_or_default();
            name.trim().trim_start_matches("static ").trim_start_matches("pub(crate) ") == field
        })
    };
    match () {
        () if in_seconds => "_seconds",
        () if made.starts_with("Info::") => "_info",
        () if declared("Counter") => "_total",
        () => "",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::documents, *};

    /// The rows of the table of reasons in the troubleshooting page.
    fn rows() -> Vec<(String, String)> {
        let page = fs::read_to_string(documents().join("troubleshooting.md")).unwrap();
        let (_, table) = page.split_once("<!-- reasons: begin -->").unwrap();
        let (table, _) = table.split_once("<!-- reasons: end -->").unwrap();
        let row = |line: &str| {
            let (reason, rest) = line.strip_prefix("| `")?.split_once('`')?;
            Some((reason.to_owned(), rest.trim_start_matches([' ', '|']).to_owned()))
        };
        table.lines().filter_map(row).collect()
    }

    /// Every reason to wait and every fallback reason.
    fn all_reasons() -> BTreeSet<String> {
        let waiting = waiting(sources::WAITING).unwrap().into_iter().map(|(reason, _)| reason);
        waiting.chain(fallback_reasons()).map(str::to_owned).collect()
    }

    #[test]
    fn every_reason_has_a_row_in_troubleshooting() {
        let rows: BTreeSet<_> = rows().into_iter().map(|(reason, _)| reason).collect();
        let missing: Vec<_> = all_reasons().difference(&rows).cloned().collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn no_row_in_troubleshooting_is_stale() {
        let events = crate_sources();
        let stale = |(reason, meaning): &(String, String)| {
            let is_event = meaning.starts_with("event") && events.contains(&format!("\"{reason}\""));
            !all_reasons().contains(reason) && !is_event
        };
        let stale: Vec<_> = rows().into_iter().filter(stale).collect();
        assert!(stale.is_empty(), "{stale:?}");
    }

    /// The shipped sources that report events.
    fn crate_sources() -> String {
        let root = documents().join("..");
        let mut text = String::new();
        for directory in ["common/src/clone", "controller/src/clone"] {
            for entry in fs::read_dir(root.join(directory)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "rs") {
                    text.push_str(&fs::read_to_string(path).unwrap());
                }
            }
        }
        text
    }

    #[test]
    fn every_fallback_reason_is_in_the_table_of_rules() {
        let page = fs::read_to_string(documents().join("deciding.md")).unwrap();
        let missing: Vec<_> =
            fallback_reasons().into_iter().filter(|reason| !page.contains(&format!("| `{reason}` |"))).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn every_key_has_one_writer_and_no_writer_a_key_that_is_gone() {
        let keys: BTreeSet<_> =
            constants(sources::KEYS).into_iter().filter(Constant::is_key).map(|key| key.value).collect();
        let listed: usize =
            parts(sources::KEYS).map(|(_, part)| constants(part).into_iter().filter(Constant::is_key).count()).sum();
        assert_eq!(listed, keys.len(), "a key is in no part, or in two");
        let written: Vec<_> = WRITERS.iter().flat_map(|(_, keys)| *keys).copied().collect();
        assert_eq!(written.len(), written.iter().collect::<BTreeSet<_>>().len(), "a key has two writers");
        assert_eq!(written.into_iter().collect::<BTreeSet<_>>(), keys);
    }

    /// The sources have the form that the page is read off.
    #[test]
    fn nothing_is_overlooked() {
        // A constant that rustfmt has wrapped would be missed.
        assert!(!sources::KEYS.contains(": &str =\n"), "a constant is on two lines");
        let arms = waiting(sources::WAITING).unwrap();
        assert!(arms.len() > 20, "{arms:?}");
        assert!(arms.iter().all(|(reason, about)| is_reason(reason) && !about.is_empty()), "{arms:?}");
        let (reasons, rows) = (arms.iter().map(|(reason, _)| *reason), WAITS.iter().map(|row| row.reason));
        assert_eq!(reasons.collect::<BTreeSet<_>>(), rows.collect::<BTreeSet<_>>(), "the contract has other reasons");
        assert!(fallback_reasons().len() >= 8, "{:?}", fallback_reasons());
        for source in sources::METRICS {
            assert_eq!(metrics(source).len(), source.matches("registry.register").count());
        }
    }

    #[test]
    fn a_metric_has_the_name_that_is_scraped() {
        let names: BTreeSet<_> =
            sources::METRICS.iter().flat_map(|source| metrics(source)).map(|metric| metric.name()).collect();
        for name in [
            "smartclone_build_info",
            "smartclone_actions_total",
            "smartclone_unreadable_objects_total",
            "smartclone_admission_duration_seconds",
            "smartclone_admission_panics_total",
            "smartclone_open_refusals",
            "smartclone_mode",
            "smartclone_certificate_not_after_timestamp_seconds",
            "smartclone_certificate_renewal_failures_total",
        ] {
            assert!(names.contains(name), "{name} is not in {names:?}");
        }
    }
}
