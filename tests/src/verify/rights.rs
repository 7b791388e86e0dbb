//! Whether smartclone's accounts have the rights that they need, and no others: read off the API server's own record of a whole run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use common::{
    keys::{CONTROLLER, WEBHOOK},
    manifest::{self, Manifest},
};
use k8s_openapi::api::rbac::v1::PolicyRule;

use super::none;
use crate::bench::audit::Request;

/// Rights that no request shows, each with its reason.
const UNSEEN: [(&str, &str); 5] = [
    // An admission plugin that this cluster's API server doesn't run asks for them (OwnerReferencesPermissionEnforcement).
    ("update", "cdi.kubevirt.io/datavolumes/finalizers"),
    ("update", "/persistentvolumeclaims/finalizers"),
    // Only when two have to write at the same moment: the one that was too late looks again.
    ("get", "cdi.kubevirt.io/storageprofiles"),
    ("get", "snapshot.storage.k8s.io/volumesnapshots"),
    ("get", "/pods"),
];

/// The rights of smartclone's programs, by their accounts.
type Given = Vec<(String, &'static str, BTreeSet<(String, String)>)>;

/// What the programs asked for.
#[derive(Default)]
struct Asked {
    used: BTreeMap<&'static str, BTreeSet<(String, String)>>,
    forbidden: BTreeSet<String>,
}

/// Fails with every request of smartclone's that was not allowed, and every right of the installation without CDI that it never used, since
/// the cluster was started. To be called before smartclone is installed beside CDI.
pub fn exactly(audit_log: &Path) -> Result<String> {
    let given =
        given([(CONTROLLER, controller::manifests::manifests()?), (WEBHOOK, webhook::manifests::manifests()?)])?;
    let mut asked = Asked::default();
    for file in files(audit_log)? {
        let log = BufReader::new(File::open(&file).with_context(|| format!("open {}", file.display()))?);
        for line in log.lines() {
            let line = line?;
            // Most of it is not about us.
            if line.contains("system:serviceaccount:smartclone:") {
                asked.add(&serde_json::from_str(&line).context("read the audit log")?, &given);
            }
        }
    }
    compare(&given, &asked, &UNSEEN)
}

fn given(programs: [(&'static str, Vec<Manifest>); 2]) -> Result<Given> {
    programs.into_iter().map(|(part, files)| Ok((manifest::user(part), part, rights(&files)?))).collect()
}

impl Asked {
    fn add(&mut self, request: &Request, given: &Given) {
        let Some((_, part, _)) = given.iter().find(|(account, ..)| request.username() == account) else { return };
        let Some(right) = request.right() else { return };
        if request.was_forbidden() {
            self.forbidden.insert(format!("{part}: {} {}", right.0, right.1));
        } else {
            self.used.entry(part).or_default().insert(right);
        }
    }
}

/// Fails unless the rights that are given are those that were asked for, but for the `unseen` ones.
fn compare(given: &Given, asked: &Asked, unseen: &[(&str, &str)]) -> Result<String> {
    let forbidden: Vec<_> = asked.forbidden.iter().cloned().collect();
    none("smartclone asked for what it has no right to", &forbidden)?;
    let mut count = 0;
    let mut unused = Vec::new();
    for (_, part, rights) in given {
        let used = asked.used.get(part).context("the audit log doesn't know smartclone")?;
        count += rights.len();
        let missing = rights.difference(used).filter(|(verb, what)| !unseen.contains(&(verb.as_str(), what.as_str())));
        unused.extend(missing.map(|(verb, what)| format!("{part}: {verb} {what}")));
    }
    none("smartclone has rights that it never used", &unused)?;
    Ok(format!("{count} rights, each used, none missing"))
}

/// The log and those that were full before it.
fn files(audit_log: &Path) -> Result<Vec<std::path::PathBuf>> {
    let directory = audit_log.parent().context("the log is in a directory")?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("audit")) {
            found.push(path);
        }
    }
    ensure!(!found.is_empty(), "there is no audit log in {}", directory.display());
    Ok(found)
}

/// Every right in the roles of these files.
fn rights(manifests: &[Manifest]) -> Result<BTreeSet<(String, String)>> {
    let roles = manifests.iter().flat_map(|manifest| &manifest.objects);
    let roles = roles.filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")));
    let mut all = BTreeSet::new();
    for role in roles {
        let given: Vec<PolicyRule> = serde_json::from_value(role["rules"].clone())?;
        for rule in given {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    all.extend(rule.verbs.iter().map(|verb| (verb.clone(), format!("{group}/{resource}"))));
                }
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(part: &str, verb: &str, resource: &str, allowed: bool) -> Request {
        let decision = if allowed { "allow" } else { "forbid" };
        serde_json::from_value(json!({
            "verb": verb, "user": {"username": manifest::user(part)}, "objectRef": {"resource": resource},
            "annotations": {"authorization.k8s.io/decision": decision},
            "requestReceivedTimestamp": "2026-01-01T00:00:00Z", "stageTimestamp": "2026-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    fn verdict(requests: &[Request]) -> String {
        let right = |verb: &str| (verb.to_owned(), "/pods".to_owned());
        let given: Given = [CONTROLLER, WEBHOOK]
            .map(|part| (manifest::user(part), part, BTreeSet::from([right("list"), right("get")])))
            .into();
        let mut asked = Asked::default();
        for request in requests {
            asked.add(request, &given);
        }
        match compare(&given, &asked, &[("get", "/pods")]) {
            Ok(text) => text,
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn rights_are_neither_unused_nor_missing() {
        let [controller, webhook] = [CONTROLLER, WEBHOOK].map(|part| request(part, "list", "pods", true));
        let both = [controller.clone(), webhook, request("tenant", "delete", "pods", false)];
        assert_eq!(verdict(&both), "4 rights, each used, none missing");
        let other = request(WEBHOOK, "watch", "pods", true);
        let unused = verdict(&[controller, other]);
        assert!(unused.contains("webhook: list /pods") && !unused.contains("controller"), "{unused}");
        let refused = [&both[..], &[request(CONTROLLER, "create", "leases", false)]].concat();
        assert!(verdict(&refused).contains("controller: create /leases"), "{}", verdict(&refused));
    }

    /// The second set is smaller where it counts.
    #[test]
    fn beside_cdi_there_are_fewer_rights() {
        let count = |programs| given(programs).unwrap().iter().map(|(_, _, rights)| rights.len()).collect::<Vec<_>>();
        let alone = count([(CONTROLLER, controller::manifests::manifests().unwrap()), (WEBHOOK, Vec::new())]);
        let beside = count([(CONTROLLER, controller::manifests::beside_cdi().unwrap()), (WEBHOOK, Vec::new())]);
        assert!(beside[0] < alone[0], "{beside:?} {alone:?}");
    }
}
