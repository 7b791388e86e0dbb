//! Whether smartclone's accounts have the rights that they need, and no others: read off the API server's own record of a whole run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use common::manifest::{Manifest, NAMESPACE};
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

/// Fails with every request of smartclone's that was not allowed, and every right that it never used, since the cluster was started.
pub fn exactly(audit_log: &Path) -> Result<String> {
    let given = [("controller", controller::manifests::manifests()?), ("webhook", webhook::manifests::manifests()?)];
    let mut used: BTreeMap<&str, BTreeSet<(String, String)>> = BTreeMap::new();
    let mut forbidden = BTreeSet::new();
    for file in files(audit_log)? {
        let log = BufReader::new(File::open(&file).with_context(|| format!("open {}", file.display()))?);
        for line in log.lines() {
            let line = line?;
            // Most of it is not about us.
            if !line.contains("system:serviceaccount:smartclone:") {
                continue;
            }
            let request: Request = serde_json::from_str(&line).context("read the audit log")?;
            let account = |part: &str| format!("system:serviceaccount:{NAMESPACE}:smartclone-{part}");
            let Some((part, _)) = given.iter().find(|(part, _)| request.username() == account(part)) else { continue };
            let Some(right) = request.right() else { continue };
            if request.was_forbidden() {
                forbidden.insert(format!("{part}: {} {}", right.0, right.1));
            } else {
                used.entry(part).or_default().insert(right);
            }
        }
    }
    none("smartclone asked for what it has no right to", &forbidden.into_iter().collect::<Vec<_>>())?;
    let mut count = 0;
    let mut unused = Vec::new();
    for (part, manifests) in &given {
        let used = used.get(part).context("the audit log doesn't know smartclone")?;
        for (verb, what) in rights(manifests)? {
            count += 1;
            let seen = used.contains(&(verb.clone(), what.clone()));
            if !seen && !UNSEEN.contains(&(verb.as_str(), what.as_str())) {
                unused.push(format!("{part}: {verb} {what}"));
            }
        }
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
