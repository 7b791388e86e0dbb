//! `cargo demo`: a tour for newcomers. Everything that is shown is really run on this checkout's own cluster, which it leaves running.

mod follow;
mod shell;
mod transcript;

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};
use common::{api::Cdi, manifest};
use k8s_openapi::api::{core::v1::Namespace, storage::v1::StorageClass};
use kube::{Api, Client};

use self::{shell::Shell, transcript::Transcript};
use crate::{
    harness,
    lab::{Lab, command::unless_interrupted, progress::Progress},
};

/// Where the objects of the tour are, for the reader to try again by hand.
const OBJECTS: &str = "tests/src/demo/objects";
const NAMESPACE: &str = "demo";
/// Somebody else's, who gets clones of the tour's disk.
const TEAM: &str = "demo-team";

const FORCE_COPY: &str = r#"{"spec":{"cloneStrategyOverride":"copy"}}"#;
const FORCE_NOTHING: &str = r#"{"spec":{"cloneStrategyOverride":null}}"#;

/// The whole tour.
pub async fn run() -> Result<()> {
    let start = Instant::now();
    let transcript = Transcript::to_stdout();
    let lab = Lab::for_this_checkout()?;
    transcript.chapter(1, "A Kubernetes of your own")?;
    transcript.say(
        "Real etcd, API server, kubelet and storage drivers, as processes of this machine. The first time, missing\n\
         packages are installed and Kubernetes is built from source, which takes about ten minutes on two cores.\n",
    )?;
    lab.up(&Progress::to_stderr())
        .await
        .context("the cluster did not start; `cargo cluster status` shows its parts and logs")?;
    let tour = Tour { lab: &lab, client: lab.client()?, transcript, shell: Shell::new(&lab, transcript) };
    if let Err(mut error) = unless_interrupted(Box::pin(tour.all())).await {
        // Whatever happened, others on this cluster get their snapshots back.
        if let Err(why) = tour.unforce().await {
            error = error.context(format!("the CDI object may still force a strategy: {why:#}"));
        }
        tour.explain().await;
        return Err(error.context("the tour ended early"));
    }
    tour.goodbye(start)
}

struct Tour<'a> {
    lab: &'a Lab,
    client: Client,
    transcript: Transcript,
    shell: Shell<'a>,
}

impl Tour<'_> {
    async fn all(&self) -> Result<()> {
        self.install().await.context("smartclone could not be installed")?;
        self.source().await.context("the source volume could not be filled")?;
        self.by_snapshot().await.context("the clone by snapshot")?;
        self.rejected().await.context("the rejection")?;
        self.fallen_back().await.context("the fallback to a copy")?;
        self.forced().await.context("the copy that the CDI object forces")?;
        self.compare("compare-copies").await?;
        self.planned_anew().await.context("the copy after a refusal")?;
        self.of_a_snapshot().await.context("the clone of a snapshot")?;
        self.to_another_namespace().await.context("the clone into another namespace")?;
        self.moved().await.context("the transfer")?;
        self.transcript.say("Has the disk that was cloned, and has moved, the source's content? And the other two?")?;
        self.compare("compare-routes").await
    }

    async fn install(&self) -> Result<()> {
        self.transcript.chapter(2, "smartclone on it")?;
        self.clear().await?;
        harness::install_by(self.lab, async || self.shell.kubectl(&["apply", "-k", "manifests"]).await.map(drop))
            .await?;
        self.shell.kubectl(&["-n", manifest::NAMESPACE, "get", "pods"]).await?;
        Ok(())
    }

    /// What an earlier tour has left.
    async fn clear(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for name in [NAMESPACE, TEAM] {
            if namespaces.get_opt(name).await?.is_some() {
                self.transcript.say("An earlier tour was here; its namespace goes first.")?;
                self.shell.kubectl(&["delete", "namespace", name, "--wait=false"]).await?;
            }
        }
        // What is remembered of its driver goes with the class.
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        if classes.get_opt("demo-fussy").await?.is_some() {
            self.shell.kubectl(&["delete", "storageclass", "demo-fussy"]).await?;
        }
        Ok(())
    }

    async fn source(&self) -> Result<()> {
        self.transcript.chapter(3, "A disk with something on it")?;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for name in [NAMESPACE, TEAM] {
            harness::wait::gone(&namespaces, name, None).await?;
        }
        self.unforce().await?;
        self.shell.kubectl(&["create", "namespace", NAMESPACE]).await?;
        self.shell.kubectl(&["create", "namespace", TEAM]).await?;
        self.create("source").await?;
        self.ended("fill").await
    }

    /// Takes back an override that an interrupted tour has left.
    async fn unforce(&self) -> Result<()> {
        let cdi = Api::<Cdi>::all(self.client.clone()).get_opt("cdi").await?;
        if cdi.is_some_and(|cdi| cdi.spec.clone_strategy_override.is_some()) {
            self.transcript.say("The CDI object forces a strategy. Back to the default.")?;
            self.force(FORCE_NOTHING).await?;
        }
        Ok(())
    }

    async fn by_snapshot(&self) -> Result<()> {
        self.transcript.chapter(4, "A clone by snapshot")?;
        self.transcript.say(
            "The warning is the decision, made at admission. `--dry-run=server` would have told it without making anything.",
        )?;
        self.clone_and_follow("clone").await?;
        self.annotated("clone", "snapshot").await?;
        self.transcript.say("A larger one takes no longer: the storage driver restores it at its final size.")?;
        self.clone_and_follow("larger").await?;
        self.shell.kubectl(&["-n", NAMESPACE, "get", "datavolumes,persistentvolumeclaims"]).await?;
        self.transcript.say("Have they the source's content? A pod reads all three volumes.")?;
        self.compare("compare").await
    }

    async fn rejected(&self) -> Result<()> {
        self.transcript.chapter(5, "A mistake, told at once")?;
        let said = self.refused("too-small").await?;
        ensure!(said.contains("spec.storage.resources.requests"), "the refusal does not name the field: {said}");
        Ok(())
    }

    async fn fallen_back(&self) -> Result<()> {
        self.transcript.chapter(6, "Where no snapshot helps: a copy, and the reason")?;
        self.clone_and_follow("elsewhere").await?;
        self.annotated("elsewhere", "copy").await
    }

    async fn forced(&self) -> Result<()> {
        self.transcript.chapter(7, "An admin's word: every clone is to be a copy")?;
        self.force(FORCE_COPY).await?;
        self.clone_and_follow("copied").await?;
        self.annotated("copied", "copy").await?;
        self.transcript.say("And back to the default.")?;
        self.force(FORCE_NOTHING).await
    }

    async fn planned_anew(&self) -> Result<()> {
        self.transcript.chapter(8, "The storage says no: another way is found")?;
        self.transcript.say(
            "This class belongs to a driver that can't restore a snapshot to a larger volume, which nobody has told smartclone.",
        )?;
        let file = self.show("fussy")?;
        self.shell.kubectl(&["apply", "-f", &file]).await?;
        self.clone_and_follow("planned-anew").await?;
        self.annotated("planned-anew", "copy").await?;
        let events =
            ["-n", NAMESPACE, "get", "events", "--field-selector=involvedObject.name=planned-anew,type=Warning"];
        let said = self.shell.kubectl(&events).await?;
        ensure!(said.contains("DriverRefused"), "no event tells of the refusal");
        self.transcript.say("It is remembered for a while, so that similar clones of this namespace need not find out.")
    }

    async fn of_a_snapshot(&self) -> Result<()> {
        self.transcript.chapter(9, "A clone of a snapshot that somebody has taken")?;
        self.create("monday").await?;
        self.clone_and_follow("of-monday").await?;
        self.annotated("of-monday", "snapshot").await
    }

    async fn to_another_namespace(&self) -> Result<()> {
        self.transcript.chapter(10, "A clone for another namespace")?;
        self.transcript.say("First for a user who may do everything there, and has no right to read the disk here.")?;
        let role = ["-n", TEAM, "create", "rolebinding", "carol", "--clusterrole=admin", "--user=carol"];
        self.shell.kubectl(&role).await?;
        let file = self.show("over-there")?;
        let said = self.shell.kubectl_refused(&["create", "-f", &file, "--as=carol"]).await?;
        ensure!(said.contains("carol") && said.contains("kubectl create role"), "the refusal has no cure: {said}");
        self.transcript.say("An admin may.")?;
        self.clone_and_follow_in(TEAM, "over-there").await
    }

    async fn moved(&self) -> Result<()> {
        self.transcript.chapter(11, "A disk moves, with its data")?;
        self.create("move").await?;
        let phase = "--for=jsonpath={.status.phase}=Complete";
        self.shell.kubectl(&["wait", phase, "objecttransfer/demo-move", "--timeout=90s"]).await?;
        self.shell.kubectl(&["delete", "objecttransfer", "demo-move"]).await?;
        self.shell.kubectl(&["get", "datavolumes", "-A"]).await.map(drop)
    }

    async fn force(&self, patch: &str) -> Result<()> {
        self.shell.kubectl(&["patch", "cdi", "cdi", "--type", "merge", "-p", patch]).await.map(drop)
    }

    fn goodbye(&self, start: Instant) -> Result<()> {
        self.transcript.chapter(12, &format!("That was all, in {} s", start.elapsed().as_secs()))?;
        let bin = self.lab.kubectl_path();
        let bin = bin.parent().unwrap_or(Path::new("")).display();
        self.transcript.say(&format!(
            "The cluster keeps running. Go on by hand, from this directory:\n\n    \
             export KUBECONFIG={}\n    \
             export PATH={bin}:$PATH\n\n    \
             kubectl -n {NAMESPACE} get datavolumes\n    \
             kubectl -n {NAMESPACE} describe datavolume elsewhere\n    \
             kubectl -n {NAMESPACE} delete datavolume clone\n    \
             kubectl create --dry-run=server -f {OBJECTS}/clone.yaml\n    \
             kubectl explain datavolume.spec\n    \
             kubectl -n {} logs deployment/smartclone-controller\n\n\
             More to try is in manifests/samples. The cluster's state:  cargo cluster status\n\
             Stop it, and leave the machine as it was:                  cargo cluster down",
            self.lab.kubeconfig().display(),
            manifest::NAMESPACE,
        ))
    }

    async fn create(&self, object: &str) -> Result<()> {
        let file = self.show(object)?;
        self.shell.kubectl(&["create", "-f", &file]).await.map(drop)
    }

    async fn refused(&self, object: &str) -> Result<String> {
        let file = self.show(object)?;
        self.shell.kubectl_refused(&["create", "-f", &file]).await
    }

    /// Shows a file; returns its path as one would type it.
    fn show(&self, object: &str) -> Result<String> {
        let file = format!("{OBJECTS}/{object}.yaml");
        let path = self.lab.layout().checkout().join(&file);
        let content = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        self.transcript.file(&file, &content)?;
        Ok(file)
    }

    async fn annotated(&self, name: &str, strategy: &str) -> Result<()> {
        let list = ["-n", NAMESPACE, "annotate", "datavolume", name, "--list"];
        let annotations = self.shell.kubectl(&list).await?;
        let wanted = format!("{}={strategy}", common::keys::CLONE_TYPE);
        ensure!(annotations.lines().any(|line| line == wanted), "the DataVolume {name} is not annotated with {wanted}");
        Ok(())
    }

    /// Waits for a pod of the tour to end well.
    async fn ended(&self, pod: &str) -> Result<()> {
        let pod = format!("pod/{pod}");
        let phase = "--for=jsonpath={.status.phase}=Succeeded";
        self.shell.kubectl(&["-n", NAMESPACE, "wait", phase, &pod, "--timeout=90s"]).await.map(drop)
    }

    /// Runs a pod that prints a digest for each of its volumes, which have to be equal.
    async fn compare(&self, pod: &str) -> Result<()> {
        self.shell.kubectl(&["create", "-f", &format!("{OBJECTS}/{pod}.yaml")]).await?;
        self.ended(pod).await?;
        let logs = ["-n", NAMESPACE, "logs", pod, "--all-containers", "--prefix"];
        let said = self.shell.kubectl(&logs).await?;
        let digests: Vec<_> = said.lines().filter_map(|line| line.split_once("] ")).map(|(_, digest)| digest).collect();
        ensure!(digests.len() > 1 && digests.windows(2).all(|pair| pair[0] == pair[1]), "the digests differ");
        self.transcript.good(&format!("{} equal digests", digests.len()))
    }

    /// After a failure: what the programs have to say.
    async fn explain(&self) {
        let questions: [&[&str]; 3] = [
            &["-n", NAMESPACE, "get", "datavolumes,persistentvolumeclaims,volumesnapshots,pods"],
            &["-n", NAMESPACE, "get", "events", "--field-selector=type=Warning"],
            &["-n", manifest::NAMESPACE, "logs", "deployment/smartclone-controller", "--tail=20"],
        ];
        for question in questions {
            // The error that is about to be told is the one that matters.
            let _ = self.shell.kubectl(question).await;
        }
        let logs = self.lab.layout().at("log");
        let _ = self.transcript.say(&format!("The logs of the cluster's own parts are in {}", logs.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use common::api::{DataVolume, ObjectTransfer, snapshot::VolumeSnapshot};
    use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
    use serde_json::Value;

    use super::*;
    use crate::lab::images::Image;

    /// What is shown to beginners has no misspelt field, stays in the tour's namespace, and runs the image that is built.
    #[test]
    fn objects_are_what_the_types_know() -> Result<()> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(OBJECTS);
        let mut kinds = std::collections::BTreeSet::new();
        for entry in fs::read_dir(directory)? {
            for object in serde_saphyr::from_multiple::<Value>(&fs::read_to_string(entry?.path())?)? {
                let kind = object["kind"].as_str().unwrap_or_default().to_owned();
                let again = match kind.as_str() {
                    "DataVolume" => serde_json::to_value(serde_json::from_value::<DataVolume>(object.clone())?)?,
                    "ObjectTransfer" => {
                        serde_json::to_value(serde_json::from_value::<ObjectTransfer>(object.clone())?)?
                    }
                    "VolumeSnapshot" => {
                        serde_json::to_value(serde_json::from_value::<VolumeSnapshot>(object.clone())?)?
                    }
                    "StorageClass" => serde_json::to_value(serde_json::from_value::<StorageClass>(object.clone())?)?,
                    "Pod" => serde_json::to_value(serde_json::from_value::<Pod>(object.clone())?)?,
                    _ => serde_json::to_value(serde_json::from_value::<PersistentVolumeClaim>(object.clone())?)?,
                };
                assert_eq!(again, object);
                let metadata = &object["metadata"];
                match metadata["namespace"].as_str() {
                    Some(namespace) => assert!([NAMESPACE, TEAM].contains(&namespace), "{object}"),
                    None => assert!(metadata["name"].as_str().unwrap_or_default().starts_with("demo-"), "{object}"),
                }
                for container in object["spec"]["containers"].as_array().into_iter().flatten() {
                    assert_eq!(container["image"], Image::Tools.reference());
                }
                kinds.insert(kind);
            }
        }
        assert_eq!(kinds.len(), 6, "{kinds:?}");
        Ok(())
    }
}
