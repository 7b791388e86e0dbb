//! The API server's own record of who asked it for what.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde::Deserialize;

/// One answered request.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    verb: String,
    #[serde(default)]
    user: User,
    /// The user in whose name an administrator asked.
    impersonated_user: Option<User>,
    #[serde(default)]
    user_agent: String,
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    response_status: Option<ResponseStatus>,
    #[serde(rename = "requestReceivedTimestamp")]
    received: Timestamp,
    #[serde(rename = "stageTimestamp")]
    answered: Timestamp,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef {
    #[serde(default)]
    api_group: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    resource: String,
    subresource: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

impl Request {
    /// Whether it changed something. A review is created, too, but only to be answered; nothing is stored.
    pub fn wrote(&self) -> bool {
        let verbs = ["create", "update", "patch", "delete", "deletecollection"];
        self.succeeded() && verbs.contains(&self.verb.as_str()) && !self.is_review()
    }

    /// In whose name it was asked.
    pub fn username(&self) -> &str {
        &self.user.username
    }

    /// The account by whose rights it was decided: the impersonated one, if there is one.
    pub fn account(&self) -> &str {
        self.impersonated_user.as_ref().map_or(&self.user.username, |user| &user.username)
    }

    /// The right that it takes: the verb, and `group/resource/subresource`.
    pub fn right(&self) -> Option<(String, String)> {
        let about = self.object_ref.as_ref()?;
        let part = self.part().map(|part| format!("/{part}")).unwrap_or_default();
        Some((self.verb.clone(), format!("{}/{}{part}", about.api_group, about.resource)))
    }

    /// The user had no right to ask it.
    pub fn was_forbidden(&self) -> bool {
        self.annotations.get("authorization.k8s.io/decision").is_some_and(|word| word == "forbid")
    }

    /// The ValidatingAdmissionPolicy that refused it, and the API server's words.
    pub fn refused_by_policy(&self) -> Option<(&str, &str)> {
        let status = self.response_status.as_ref().filter(|status| status.code >= 400)?;
        let (_, rest) = status.message.split_once("ValidatingAdmissionPolicy '")?;
        Some((rest.split_once('\'')?.0, &status.message))
    }

    /// Whether it asked what somebody may do.
    pub fn is_review(&self) -> bool {
        self.resource().ends_with("reviews")
    }

    /// Whether it made an object of this resource, in whichever way.
    fn made(&self, resource: &str) -> bool {
        let code = self.response_status.as_ref().map_or(0, |status| status.code);
        code == 201 && self.resource() == resource && self.part().is_none()
    }

    fn succeeded(&self) -> bool {
        self.response_status.as_ref().is_some_and(|status| (200..300).contains(&status.code))
    }

    fn resource(&self) -> &str {
        self.object_ref.as_ref().map_or("", |about| about.resource.as_str())
    }

    fn part(&self) -> Option<&str> {
        self.object_ref.as_ref()?.subresource.as_deref()
    }

    /// Such as `smartclone-controller`.
    fn program(&self) -> &str {
        self.user_agent.split(['/', ' ']).next().filter(|name| !name.is_empty()).unwrap_or("(this client)")
    }

    /// Whether smartclone asked.
    pub fn is_ours(&self) -> bool {
        self.user_agent.starts_with("smartclone-")
    }

    /// Whether it is about an object in one of these namespaces, or about one of those that belong to volumes and have no namespace.
    /// What smartclone does without any namespace counts, too; what it does in its own one, such as keeping a Lease, goes on without clones.
    fn is_in(&self, namespaces: &[&str]) -> bool {
        self.object_ref.as_ref().is_some_and(|about| {
            if about.namespace.is_empty() {
                self.is_ours() || ["persistentvolumes", "volumesnapshotcontents"].contains(&about.resource.as_str())
            } else {
                namespaces.contains(&about.namespace.as_str())
            }
        })
    }
}

/// Such as `smartclone-controller update datavolumes/status`.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.program(), self.verb)?;
        if self.object_ref.is_some() {
            write!(f, " {}", self.resource())?;
        }
        self.part().map_or(Ok(()), |part| write!(f, "/{part}"))
    }
}

/// A place in the audit log, and with it everything that is written after it.
#[derive(Debug)]
pub struct Mark {
    file: PathBuf,
    inode: u64,
    offset: u64,
}

impl Mark {
    /// The end of the log as it is now.
    pub fn now(file: PathBuf) -> Result<Self> {
        let found = std::fs::metadata(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(Self { inode: found.ino(), offset: found.len(), file })
    }

    /// The requests since then that were about these namespaces' objects and volumes, in the order of their answers.
    pub fn requests_in(&self, namespaces: &[&str]) -> Result<Vec<Request>> {
        self.requests(|request| request.is_in(namespaces))
    }

    /// The requests since then that are `wanted`, in the order of their answers.
    pub fn requests(&self, wanted: impl Fn(&Request) -> bool) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        for file in self.files()? {
            for line in BufReader::new(file).lines() {
                // The last line may be half written; what it tells is newer than what is asked for.
                let Ok(request) = serde_json::from_str::<Request>(&line?) else { continue };
                if wanted(&request) {
                    requests.push(request);
                }
            }
        }
        Ok(requests)
    }

    /// The log from the mark on. A log that has grown too long is kept for a while beside the new one, with the time in its name.
    fn files(&self) -> Result<Vec<File>> {
        let (directory, name) = (self.file.parent().context("a log has a directory")?, self.file.file_stem());
        let older = format!("{}-", name.unwrap_or_default().to_string_lossy());
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&older) {
                paths.push(entry.path());
            }
        }
        paths.sort();
        paths.push(self.file.clone());
        let mut files = Vec::new();
        for path in paths {
            let mut file = File::open(&path).with_context(|| format!("read {}", path.display()))?;
            if !files.is_empty() {
                files.push(file);
            } else if file.metadata()?.ino() == self.inode {
                file.seek(SeekFrom::Start(self.offset))?;
                files.push(file);
            }
        }
        if files.is_empty() {
            bail!("the API server has thrown away a part of its audit log meanwhile; measure again");
        }
        Ok(files)
    }
}

/// smartclone's own writes among `requests`, by what they were.
pub fn own_writes(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in requests.iter().filter(|request| request.is_ours() && request.wrote()) {
        *counts.entry(request.to_string()).or_default() += 1;
    }
    counts
}

/// The writes of everybody among `requests`, by program.
pub fn writes_by_program(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in requests.iter().filter(|request| request.wrote()) {
        *counts.entry(request.program().to_owned()).or_default() += 1;
    }
    counts
}

/// How often smartclone has asked what somebody may do.
pub fn own_reviews(requests: &[Request]) -> usize {
    requests.iter().filter(|request| request.is_ours() && request.is_review() && request.succeeded()).count()
}

/// How many objects of a resource were made.
pub fn made(requests: &[Request], resource: &str) -> usize {
    requests.iter().filter(|request| request.made(resource)).count()
}

/// The requests from the last creation of an object of this resource to its deletion.
pub fn last_life<'a>(requests: &'a [Request], resource: &str) -> &'a [Request] {
    let of = |verb: &str, request: &Request| request.verb == verb && request.resource() == resource;
    let Some(born) = requests.iter().rposition(|request| of("create", request)) else { return &[] };
    let life = &requests[born..];
    life.iter().position(|request| of("delete", request)).map_or(life, |died| &life[..died])
}

/// The writes of everybody among `requests`, each with the milliseconds from the first to when it came in and to when it was answered.
pub fn timeline(requests: &[Request]) -> String {
    let mut writes: Vec<_> = requests.iter().filter(|request| request.wrote()).collect();
    writes.sort_by_key(|request| request.received);
    let Some(start) = writes.first().map(|request| request.received) else { return String::new() };
    let since = |at: Timestamp| at.duration_since(start).as_secs_f64() * 1e3;
    let line =
        |request: &&Request| format!("{:>8.1} {:>8.1}  {request}\n", since(request.received), since(request.answered));
    writes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::json;

    use super::*;

    fn line(agent: &str, verb: &str, resource: &str, namespace: &str, code: u16, milliseconds: u16) -> String {
        let at = |offset: u16| format!("2026-01-01T00:00:00.{:03}000Z", milliseconds + offset);
        json!({
            "kind": "Event", "stage": "ResponseComplete", "verb": verb, "userAgent": agent,
            "objectRef": {"resource": resource, "namespace": namespace, "name": "x", "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "code": code},
            "requestReceivedTimestamp": at(0), "stageTimestamp": at(4)
        })
        .to_string()
    }

    fn log(before: &[String], after: &[String]) -> Result<(tempfile::TempDir, Mark)> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("audit.log");
        let mut file = File::create(&path)?;
        before.iter().try_for_each(|line| writeln!(file, "{line}"))?;
        let mark = Mark::now(path)?;
        after.iter().try_for_each(|line| writeln!(file, "{line}"))?;
        Ok((directory, mark))
    }

    #[test]
    fn only_our_successful_writes_in_the_namespace_since_the_mark_are_counted() -> Result<()> {
        let ours = "smartclone-controller/0.1.0";
        let (_directory, mark) = log(
            &[line(ours, "create", "pods", "n", 201, 0)],
            &[
                line(ours, "create", "persistentvolumeclaims", "n", 201, 1),
                line(ours, "update", "datavolumes", "n", 200, 2),
                line(ours, "update", "datavolumes", "n", 200, 3),
                line(ours, "update", "datavolumes", "n", 409, 4),
                line(ours, "watch", "datavolumes", "n", 200, 5),
                line(ours, "create", "persistentvolumeclaims", "elsewhere", 201, 6),
                line("csi-provisioner/v6", "patch", "persistentvolumeclaims", "n", 200, 7),
                "{\"verb\": \"half a li".to_owned(),
            ],
        )?;
        let counts = own_writes(&mark.requests_in(&["n"])?);
        let wanted = BTreeMap::from([
            ("smartclone-controller create persistentvolumeclaims".to_owned(), 1),
            ("smartclone-controller update datavolumes".to_owned(), 2),
        ]);
        assert_eq!(counts, wanted);
        Ok(())
    }

    #[test]
    fn a_timeline_begins_with_what_came_in_first() -> Result<()> {
        let (_directory, mark) = log(
            &[],
            &[
                line("b/1", "create", "pods", "n", 201, 120),
                line("a/1 (linux)", "create", "datavolumes", "n", 201, 100),
            ],
        )?;
        let wanted = "     0.0      4.0  a create datavolumes\n    20.0     24.0  b create pods\n";
        assert_eq!(timeline(&mark.requests_in(&["n"])?), wanted);
        Ok(())
    }

    #[test]
    fn volumes_and_reviews_have_no_namespace_and_nodes_are_not_counted() -> Result<()> {
        let ours = "smartclone-controller/0.1.0";
        let (_directory, mark) = log(
            &[],
            &[
                line(ours, "patch", "persistentvolumes", "", 200, 1),
                line("csi-provisioner/v6", "create", "persistentvolumes", "", 201, 2),
                line("kubelet/v1", "patch", "nodes", "", 200, 3),
                line(ours, "create", "subjectaccessreviews", "", 201, 4),
                line(ours, "patch", "volumesnapshots", "n", 201, 5),
                line(ours, "patch", "volumesnapshots", "n", 200, 6),
                line(ours, "patch", "leases", "smartclone", 200, 7),
            ],
        )?;
        let requests = mark.requests_in(&["n"])?;
        let wanted = BTreeMap::from([("csi-provisioner".to_owned(), 1), ("smartclone-controller".to_owned(), 3)]);
        assert_eq!(writes_by_program(&requests), wanted);
        assert_eq!((own_reviews(&requests), made(&requests, "volumesnapshots")), (1, 1));
        Ok(())
    }

    #[test]
    fn a_log_that_was_begun_anew_is_read_on_from_the_old_one() -> Result<()> {
        let (directory, mark) =
            log(&[line("a/1", "create", "pods", "n", 201, 0)], &[line("a/1", "create", "services", "n", 201, 1)])?;
        let path = directory.path().join("audit.log");
        std::fs::rename(&path, directory.path().join("audit-2026-01-01T00-00-00.000.log"))?;
        std::fs::write(directory.path().join("audit-2025-12-31T00-00-00.000.log"), "an older one\n")?;
        std::fs::write(&path, line("b/1", "create", "pods", "n", 201, 2))?;
        let shown: Vec<_> = mark.requests_in(&["n"])?.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a create services", "b create pods"]);
        Ok(())
    }

    #[test]
    fn a_log_that_was_thrown_away_is_not_counted_in_part() -> Result<()> {
        let (directory, mark) = log(&[], &[])?;
        let path = directory.path().join("audit.log");
        // Beside the new one, so that that can't get the old one's number.
        std::fs::rename(&path, directory.path().join("elsewhere"))?;
        File::create(&path)?;
        assert!(mark.requests_in(&["n"]).is_err());
        Ok(())
    }
}
