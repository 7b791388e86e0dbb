//! `cargo manifests`: writes the manifests and `docs/reference.md`, or tells where they differ from the code.

mod install;
mod lever;
mod reference;
mod samples;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use common::manifest::Manifest;

/// Writes the reference and every file below `manifests/`, and removes what isn't generated any more; with `check`, changes nothing and fails when
/// there would be something to do.
pub fn run(check: bool) -> Result<()> {
    let root = directory();
    let wanted = files()?;
    let found = existing(&root)?;
    let mut out = std::io::stdout();
    let mut changes = 0;
    for name in wanted.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let Some(difference) = difference(found.get(name), wanted.get(name)) else { continue };
        changes += 1;
        writeln!(out, "manifests/{name}: {difference}")?;
        let path = root.join(name);
        match wanted.get(name) {
            _ if check => {}
            None => fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?,
            Some(text) => {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
                }
                fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            }
        }
    }
    let (page, wanted_page) = (documents().join(reference::PAGE), reference::page()?);
    if let Some(difference) = difference(fs::read_to_string(&page).ok().as_ref(), Some(&wanted_page)) {
        changes += 1;
        writeln!(out, "docs/{}: {difference}", reference::PAGE)?;
        if !check {
            fs::write(&page, wanted_page).with_context(|| format!("write {}", page.display()))?;
        }
    }
    let count = wanted.len() + 1;
    match changes {
        _ if !check => writeln!(out, "{count} files, {changes} changed")?,
        0 => writeln!(out, "{count} files are what the code says")?,
        _ => bail!("{changes} files differ from the code; run `cargo manifests` and look at the difference"),
    }
    Ok(())
}

/// The checked-in directory of this checkout.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// The documents of this checkout.
pub fn documents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Every file, by its path below `manifests/`.
fn files() -> Result<BTreeMap<String, String>> {
    let mut manifests = install::manifests()?;
    manifests.extend(samples::manifests());
    let mut files = BTreeMap::new();
    for manifest in &manifests {
        let before = files.insert(manifest.path.clone(), text(manifest)?);
        anyhow::ensure!(before.is_none(), "two manifests want to be {}", manifest.path);
    }
    Ok(files)
}

fn text(manifest: &Manifest) -> Result<String> {
    let mut text = format!("# {}\n# Written by `cargo manifests`: change the code, not this file.\n", manifest.about);
    for object in &manifest.objects {
        if manifest.objects.len() > 1 {
            text.push_str("---\n");
        }
        text.push_str(serde_saphyr::to_string(object).with_context(|| manifest.path.clone())?.trim_end());
        text.push('\n');
    }
    Ok(text)
}

fn existing(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "yaml") {
                let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?);
            }
        }
    }
    Ok(found)
}

/// In a few lines; `None` when there is none.
fn difference(found: Option<&String>, wanted: Option<&String>) -> Option<String> {
    let (found, wanted) = match (found, wanted) {
        (Some(found), Some(wanted)) if found == wanted => return None,
        (None, None) => return None,
        (None, Some(wanted)) => return Some(format!("new, {} lines", wanted.lines().count())),
        (Some(_), None) => return Some("no longer generated".to_owned()),
        (Some(found), Some(wanted)) => (found.lines().collect::<Vec<_>>(), wanted.lines().collect::<Vec<_>>()),
    };
    let same = found.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
    let line = |lines: &[&str]| lines.get(same).map_or("(end of file)", |line| *line).to_owned();
    Some(format!(
        "{} lines, was {}; the first difference is in line {}:\n  - {}\n  + {}",
        wanted.len(),
        found.len(),
        same + 1,
        line(&found),
        line(&wanted)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is checked in is what the code says.
    #[test]
    fn nothing_has_drifted() {
        let (found, wanted) = (existing(&directory()).unwrap(), files().unwrap());
        let drift: Vec<_> = wanted
            .keys()
            .chain(found.keys())
            .filter_map(|name| difference(found.get(name), wanted.get(name)).map(|d| format!("{name}: {d}")))
            .collect();
        assert!(drift.is_empty(), "run `cargo manifests`:\n{}", drift.join("\n"));
        let page = fs::read_to_string(documents().join(reference::PAGE)).ok();
        assert_eq!(difference(page.as_ref(), Some(&reference::page().unwrap())), None, "run `cargo manifests`");
    }

    /// The files that the kustomizations name, by the folder of the kustomization.
    fn named(files: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
        let kustomizations =
            files.iter().filter_map(|(name, text)| Some((name.strip_suffix("kustomization.yaml")?, text)));
        kustomizations
            .map(|(folder, text)| {
                let list: serde_json::Value = serde_saphyr::from_str(text).unwrap();
                let resources = list["resources"].as_array().unwrap().iter();
                (folder.to_owned(), resources.map(|file| format!("{folder}{}", file.as_str().unwrap())).collect())
            })
            .collect()
    }

    /// A file that nobody applies is a file that nobody misses.
    #[test]
    fn each_file_is_named_by_one_kustomization() {
        let files = files().unwrap();
        let named = named(&files);
        assert!(named.contains_key("") && named.contains_key("beside-cdi/"), "{:?}", named.keys());
        let all: Vec<_> = named.values().flatten().cloned().collect();
        let installed: BTreeSet<_> = files
            .keys()
            .filter(|name| {
                !name.starts_with("samples/") && !name.ends_with("kustomization.yaml") && !name.ends_with("patch.yaml")
            })
            .cloned()
            .collect();
        assert_eq!(all.iter().cloned().collect::<BTreeSet<_>>(), installed);
        assert_eq!(all.len(), installed.len(), "a file is named twice");
    }

    /// CDI owns its definitions and the roles of its users; `kubectl delete -k` must not take them away.
    #[test]
    fn beside_cdi_nothing_of_cdi_is_installed() {
        let files = files().unwrap();
        for name in &named(&files)["beside-cdi/"] {
            let text = &files[name];
            assert!(!text.contains("kind: CustomResourceDefinition") && !text.contains("aggregate-to-"), "{name}");
            assert!(!text.contains("name: cdi.kubevirt.io:"), "{name}");
        }
    }

    #[test]
    fn a_difference_is_told_with_its_line() {
        let text = |lines: &[&str]| lines.join("\n");
        let (old, new) = (text(&["a", "b", "c"]), text(&["a", "x", "c"]));
        assert_eq!(difference(Some(&old), Some(&old)), None);
        assert_eq!(
            difference(Some(&old), Some(&new)).as_deref(),
            Some("3 lines, was 3; the first difference is in line 2:\n  - b\n  + x")
        );
        let shorter = text(&["a", "b"]);
        assert_eq!(
            difference(Some(&old), Some(&shorter)).as_deref(),
            Some("2 lines, was 3; the first difference is in line 3:\n  - c\n  + (end of file)")
        );
        assert_eq!(difference(Some(&old), None).as_deref(), Some("no longer generated"));
        assert_eq!(difference(None, Some(&old)).as_deref(), Some("new, 3 lines"));
    }
}
