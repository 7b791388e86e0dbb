//! Kubernetes, etcd and the storage sidecars: Go programs, built once per user.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::{
    command::{command, find, run},
    layout::Layout,
    progress::Progress,
};

const KUBERNETES: &str = "k8s.io/kubernetes";
const SNAPSHOT_CLIENT: &str = "github.com/kubernetes-csi/external-snapshotter/client/v8";

/// The programs that the module in `tests/lab/components` pins, and where they are built to.
#[derive(Debug, Clone)]
pub struct Components {
    module: PathBuf,
    cache: PathBuf,
    tools: Vec<Tool>,
    kubernetes: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tool {
    package: String,
    name: String,
}

impl Components {
    /// What the checkout's module file pins.
    pub fn of(layout: &Layout) -> Result<Self> {
        let module = layout.checkout().join("tests/lab/components");
        let read = |file: &str| {
            std::fs::read_to_string(module.join(file)).with_context(|| format!("read {file} in {}", module.display()))
        };
        let (definition, sums) = (read("go.mod")?, read("go.sum")?);
        let mut hash = blake3::Hasher::new();
        hash.update(sums.as_bytes()).update(definition.as_bytes());
        let cache = user_cache()?.join("smartclone/components").join(&hash.finalize().to_hex()[..16]);
        let kubernetes =
            version_of(KUBERNETES, &definition).context("go.mod requires no k8s.io/kubernetes")?.to_owned();
        Ok(Self { tools: tools(&definition), module, cache, kubernetes })
    }

    /// The directory of the built programs.
    pub fn bin(&self) -> PathBuf {
        self.cache.join("bin")
    }

    /// The directory of the snapshot API's CRDs, as its authors publish them.
    pub fn snapshot_crds(&self) -> PathBuf {
        self.cache.join("snapshot-crds")
    }

    /// Builds what isn't built yet.
    pub async fn ensure(&self, progress: &Progress) -> Result<()> {
        if self.missing().is_empty() && self.snapshot_crds().is_dir() {
            return Ok(());
        }
        if find("go").is_none() {
            bail!(
                "`go` is missing: Kubernetes is built from source. Install Go 1.24 or newer; it fetches the exact version itself"
            );
        }
        std::fs::create_dir_all(self.bin()).with_context(|| format!("create {}", self.bin().display()))?;
        // Another checkout may be building the same programs; its work is awaited, not repeated.
        let lock = File::create(self.cache.join("lock"))?;
        tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
        let missing = self.missing();
        if !missing.is_empty() {
            progress.line(&format!(
                "building {} Go programs into {} (about 8 minutes on 2 cores, once)",
                missing.len(),
                self.bin().display()
            ));
        }
        for (index, tool) in missing.iter().enumerate() {
            let name = format!("build {} ({}/{})", tool.name, index + 1, missing.len());
            progress.step(&name, self.build(tool, progress)).await?;
        }
        self.copy_snapshot_crds().await
    }

    fn missing(&self) -> Vec<&Tool> {
        self.tools.iter().filter(|tool| !self.bin().join(&tool.name).is_file()).collect()
    }

    fn go(&self, args: &[&str]) -> Command {
        let mut go = command("go", args);
        go.current_dir(&self.module).env("CGO_ENABLED", "0");
        go
    }

    async fn build(&self, tool: &Tool, progress: &Progress) -> Result<()> {
        let unfinished = self.bin().join(format!("{}.unfinished", tool.name));
        let mut flags = "-s -w".to_owned();
        if tool.package.starts_with(KUBERNETES) {
            let mut numbers = self.kubernetes.trim_start_matches('v').split('.');
            let stamps = [
                ("gitVersion", self.kubernetes.as_str()),
                ("gitMajor", numbers.next().unwrap_or_default()),
                ("gitMinor", numbers.next().unwrap_or_default()),
            ];
            for (variable, value) in stamps {
                flags = format!("{flags} -X k8s.io/component-base/version.{variable}={value}");
            }
        }
        // -v names every package when it is compiled: a sign of life in the long ones.
        let mut build = self.go(&["build", "-v", "-trimpath", "-ldflags", &flags, "-o"]);
        build.arg(&unfinished).arg(&tool.package).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = build.spawn().context("can't run go")?;
        let mut said = BufReader::new(child.stderr.take().context("stderr is a pipe")?).lines();
        let (mut compiled, mut last, start) = (0_u32, Vec::new(), Instant::now());
        let mut told = start;
        while let Some(line) = said.next_line().await? {
            compiled += 1;
            if told.elapsed() > Duration::from_secs(20) {
                told = Instant::now();
                progress.timed("...", start.elapsed(), &format!("{}: {compiled} packages compiled", tool.name));
            }
            last.push(line);
            if last.len() > 40 {
                last.remove(0);
            }
        }
        let status = child.wait().await?;
        if !status.success() {
            bail!("go build {}: {status}\n{}", tool.package, last.join("\n"));
        }
        std::fs::rename(&unfinished, self.bin().join(&tool.name))?;
        Ok(())
    }

    /// Kept beside the programs, so that a warm start doesn't need Go.
    async fn copy_snapshot_crds(&self) -> Result<()> {
        let module = run(self.go(&["list", "-m", "-f", "{{.Dir}}", SNAPSHOT_CLIENT])).await?;
        let unfinished = self.cache.join("snapshot-crds.unfinished");
        std::fs::create_dir_all(&unfinished)?;
        for entry in std::fs::read_dir(Path::new(module.trim()).join("config/crd"))? {
            let entry = entry?;
            if entry.file_name() != "kustomization.yaml" {
                std::fs::write(unfinished.join(entry.file_name()), std::fs::read(entry.path())?)?;
            }
        }
        std::fs::rename(&unfinished, self.snapshot_crds()).context("keep the snapshot CRDs")
    }
}

/// Where what is built once per user is kept.
pub fn user_cache() -> Result<PathBuf> {
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")
}

/// The packages of the `tool ( … )` block. A program is called after its directory, or, where that is only a major
/// version, after the module's repository: etcd's main package is the root of `go.etcd.io/etcd/server/v3`.
fn tools(definition: &str) -> Vec<Tool> {
    definition
        .lines()
        .skip_while(|line| line.trim() != "tool (")
        .skip(1)
        .map(str::trim)
        .take_while(|line| *line != ")")
        .filter_map(|package| {
            let name = if package.starts_with("go.etcd.io/etcd/") { "etcd" } else { package.rsplit('/').next()? };
            Some(Tool { package: package.to_owned(), name: name.to_owned() })
        })
        .collect()
}

fn version_of<'a>(module: &str, definition: &'a str) -> Option<&'a str> {
    definition.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(module)).then(|| words.next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = "module m\n\ntool (\n\tgo.etcd.io/etcd/server/v3\n\tk8s.io/kubernetes/cmd/kubelet\n)\n\nrequire (\n\tk8s.io/kubernetes v1.2.3 // indirect\n)\n";

    #[test]
    fn the_module_file_says_what_to_build() {
        let names: Vec<_> = tools(MODULE).into_iter().map(|tool| tool.name).collect();
        assert_eq!(names, ["etcd", "kubelet"]);
        assert_eq!(version_of(KUBERNETES, MODULE), Some("v1.2.3"));
    }
}
