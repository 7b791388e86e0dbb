//! The candidates of a decision, the cheapest strategy first: each is feasible, or not with a fallback reason.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    decide::{History, Resize, access_modes},
    facts::{Class, Facts, Source},
    refusals::{self, RefusalKey, VolumeRequest},
    request::Request,
    rules::{
        class::{self, Mismatch},
        size::{SizePlan, size},
        snapshot_class,
    },
};
use crate::{
    api::{CloneStrategy, Refusal},
    lookup::Lookup,
    meta,
    object::{ContentType, SourceKind, VolumeMode},
    quantity::Bytes,
};

/// The strategies, the cheapest first.
const CHEAPEST_FIRST: [CloneStrategy; 3] = [CloneStrategy::Snapshot, CloneStrategy::CsiClone, CloneStrategy::Copy];

/// The reason why a strategy is not feasible: one stable word (CDI's where CDI has one), the facts, the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// One word, for machines: event reason, metric label.
    pub code: &'static str,
    /// The facts, for people.
    pub message: String,
    /// What would make it possible.
    pub cure: String,
}

/// The driver said no while it was asked to clone.
const DRIVER_REFUSED: &str = "DriverRefused";
/// The driver had not done it when the time was over.
const DRIVER_TOO_SLOW: &str = "DriverTooSlow";

impl Reason {
    /// It shows at work only, not in what the admin has set up.
    pub(super) fn came_from_the_driver(&self) -> bool {
        matches!(self.code, DRIVER_REFUSED | DRIVER_TOO_SLOW)
    }

    /// What in the request would have to change.
    pub(super) fn field(&self) -> &'static str {
        if self.code == "IncompatibleVolumeModes" { "volumeMode" } else { "storageClassName" }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.code, self.message, self.cure)
    }
}

/// The sizes and the snapshot class of a feasible strategy.
pub(super) struct Feasible {
    pub(super) sizes: SizePlan,
    pub(super) snapshot_class: Option<String>,
}

/// The input of the candidates.
pub(super) struct Candidates<'a> {
    pub(super) request: &'a Request,
    pub(super) history: &'a History,
    pub(super) class: &'a Class,
    pub(super) source: &'a Source,
    pub(super) mode: VolumeMode,
    pub(super) resize: Resize,
    /// The smallest volume that holds the content in its new form.
    pub(super) least: Bytes,
    pub(super) facts: &'a Facts,
}

/// One strategy, and what is known about it.
pub(super) struct Candidate {
    pub(super) strategy: CloneStrategy,
    /// Whether it is possible.
    pub(super) feasibility: Feasibility,
    /// It is possible, and the driver refused it lately for a similar clone. Another strategy is taken if there is one that this can't be
    /// said of; if there is none it is tried.
    pub(super) remembered: Option<Reason>,
}

/// A feasible strategy, or the reason why it is not feasible.
pub(super) type Feasibility = Result<Feasible, Reason>;

impl Candidates<'_> {
    /// All strategies, the cheapest first; the error is that something could not be read.
    pub(super) fn candidates(&self) -> Result<Vec<Candidate>, String> {
        let candidate = |strategy| {
            let feasibility = self.feasibility(strategy)?;
            let remembered = feasibility.as_ref().ok().and_then(|feasible| self.remembered(strategy, feasible));
            Ok(Candidate { strategy, feasibility, remembered })
        };
        CHEAPEST_FIRST.into_iter().map(candidate).collect()
    }

    /// The feasibility of a strategy; the outer error says why it is not known.
    fn feasibility(&self, strategy: CloneStrategy) -> Result<Feasibility, String> {
        if let Some(reason) = self.refused(strategy) {
            return Ok(Err(reason));
        }
        Ok(match strategy {
            CloneStrategy::CsiClone if self.source.kind == SourceKind::Snapshot => Err(Reason {
                code: "SourceIsSnapshot",
                message: "the source is a snapshot, and csi-clone makes a claim from a claim".to_owned(),
                cure: "choose snapshot or copy".to_owned(),
            }),
            CloneStrategy::Snapshot if self.source.kind == SourceKind::Claim => match self.shared_storage() {
                Err(reason) => Err(reason),
                Ok(sizes) => self.snapshot_class()?.map(|class| Feasible { sizes, snapshot_class: Some(class) }),
            },
            CloneStrategy::Snapshot | CloneStrategy::CsiClone => {
                self.shared_storage().map(|sizes| Feasible { sizes, snapshot_class: None })
            }
            CloneStrategy::Copy => self.copy(),
        })
    }

    /// The driver refused it, or was too slow, for this clone.
    fn refused(&self, strategy: CloneStrategy) -> Option<Reason> {
        let past = self.history.refused.iter().find(|past| past.strategy == strategy)?;
        let (code, what) = if past.too_slow {
            (DRIVER_TOO_SLOW, "it was not done in time")
        } else {
            (DRIVER_REFUSED, "the driver refused")
        };
        Some(Reason {
            code,
            message: format!("{what}: {}", past.message),
            cure: "the driver's log may tell why".to_owned(),
        })
    }

    /// The driver refused it lately for a similar clone. That is a hint, and rejects nothing: see [`Candidate::remembered`].
    fn remembered(&self, strategy: CloneStrategy, feasible: &Feasible) -> Option<Reason> {
        let profile = self.facts.profile.present()?;
        let key = RefusalKey {
            strategy,
            driver: self.source.driver.present()?.clone(),
            source_class: self.source.class.clone(),
            class: self.class.name.clone(),
        };
        let request = VolumeRequest {
            size: feasible.sizes.create_at,
            mode: self.mode,
            access_modes: access_modes(self.request, self.source, self.mode, self.facts),
        };
        if let Some(here) = profile.refused_here.iter().find(|refusal| refusal.is_about(&key, &request)) {
            let (count, met) = (here.count, &here.met);
            return Some(Reason {
                code: DRIVER_REFUSED,
                message: format!(
                    "the driver refused a similar clone in this namespace {count} times ({}): {}",
                    met.code, met.message
                ),
                cure: format!("it is asked again after {:.0}; the driver's log may tell why", here.until),
            });
        }
        // A decision that was made stands, whatever others meet.
        if self.history.pinned_for(&self.source.uid).is_some() {
            return None;
        }
        let applies =
            |refusal: &&Refusal| refusals::is_about(refusal, &key) && refusals::least_size(refusal) <= request.size;
        let refusal = profile.refused.iter().find(applies)?;
        let at = |time: &Option<Time>| time.as_ref().map(|time| format!("{:.0}", time.0)).unwrap_or_default();
        Some(Reason {
            code: DRIVER_REFUSED,
            message: format!(
                "the driver refused similar clones in several namespaces ({}), last at {}",
                refusal.reason.as_deref().unwrap_or_default(),
                at(&refusal.last)
            ),
            cure: format!(
                "it is asked again after {}; kubectl describe storageprofile {}",
                at(&refusal.until),
                self.class.name
            ),
        })
    }

    /// What snapshot and CSI clone have in common: the driver makes the new volume from the old one.
    fn shared_storage(&self) -> Result<SizePlan, Reason> {
        let (source, target) = (self.source, self.class);
        let Some(driver) = source.driver.present() else {
            return Err(Reason {
                code: "NoCsiDriver",
                message: "the source's volume belongs to no CSI driver".to_owned(),
                cure: "only a copy of the bytes is possible".to_owned(),
            });
        };
        // Nobody knows with which class the claim behind a snapshot was made; only the driver can be compared.
        let same = match source.kind {
            SourceKind::Claim => class::compatible(driver, self.facts.source_class.present(), target),
            SourceKind::Snapshot if *driver == target.provisioner => Ok(()),
            SourceKind::Snapshot => Err(Mismatch::Driver),
        };
        match same {
            Ok(()) => {}
            Err(Mismatch::Driver) => {
                return Err(Reason {
                    code: "IncompatibleProvisioners",
                    message: format!(
                        "the source is on {driver:?}, StorageClass {:?} on {:?}",
                        target.name, target.provisioner
                    ),
                    cure: format!("choose a StorageClass of {driver:?}"),
                });
            }
            Err(Mismatch::Parameters) => {
                return Err(Reason {
                    code: "IncompatibleStorageClasses",
                    message: format!(
                        "StorageClass {:?} of the source and {:?} differ in their parameters",
                        source.class, target.name
                    ),
                    cure: format!(
                        "choose {:?}, or let the admin annotate one of the two with {}",
                        source.class,
                        meta::COMPATIBLE_WITH
                    ),
                });
            }
        }
        let mode = source.mode.unwrap_or(self.mode);
        if mode != self.mode {
            return Err(Reason {
                code: "IncompatibleVolumeModes",
                message: format!("the source is {mode}, the clone is to be {}", self.mode),
                cure: format!("ask for volumeMode {mode}"),
            });
        }
        size(self.resize.request, self.resize.source, self.resize.rule, self.resize.expands).map_err(|error| Reason {
            code: "NoVolumeExpansion",
            message: error.to_string(),
            cure: format!(
                "ask for {}, or set allowVolumeExpansion in StorageClass {:?}",
                self.resize.source.capacity, target.name
            ),
        })
    }

    /// The name of the VolumeSnapshotClass that takes the snapshot.
    fn snapshot_class(&self) -> Result<Result<String, Reason>, String> {
        let none = |message: String, cure: String| Ok(Err(Reason { code: "NoVolumeSnapshotClass", message, cure }));
        let driver = &self.class.provisioner;
        let profile = match &self.facts.profile {
            Lookup::Unknown(why) => return Err(why.clone()),
            profile => profile.present().and_then(|p| p.snapshot_class.as_deref()),
        };
        match &self.facts.snapshot_classes {
            Lookup::Unknown(why) => Err(why.clone()),
            Lookup::Absent => none(
                "the cluster has no snapshot API (snapshot.storage.k8s.io/v1)".to_owned(),
                "install the snapshot CRDs and the snapshot controller".to_owned(),
            ),
            Lookup::Present(classes) => match (snapshot_class::choose(driver, classes, profile), profile) {
                (Some((class, _)), _) => Ok(Ok(class.name.clone())),
                (None, Some(name)) => none(
                    format!(
                        "StorageProfile {:?} names VolumeSnapshotClass {name:?}, which driver {driver:?} does not have",
                        self.class.name
                    ),
                    "correct spec.snapshotClass of the StorageProfile".to_owned(),
                ),
                (None, None) => none(
                    format!("there is no VolumeSnapshotClass for driver {driver:?}"),
                    format!("create a VolumeSnapshotClass with driver: {driver}"),
                ),
            },
        }
    }

    fn copy(&self) -> Feasibility {
        let mode = self.source.mode.unwrap_or(self.mode);
        if mode != self.mode && self.request.content == ContentType::Archive {
            return Err(Reason {
                code: "IncompatibleVolumeModes",
                message: format!("the source is {mode}, and contentType archive is not converted"),
                cure: "clone it as contentType kubevirt if it holds the image of a disk".to_owned(),
            });
        }
        if self.source.kind == SourceKind::Snapshot && self.facts.source_class.present().is_none() {
            return Err(Reason {
                code: "NoProvisionerMatch",
                message: "no StorageClass has the driver of the snapshot, so it can't be restored to be copied from"
                    .to_owned(),
                cure: "create a StorageClass for the snapshot's driver".to_owned(),
            });
        }
        // A blank volume is made at any size, so nothing can be refused here that wasn't refused before.
        let request = self.resize.request.unwrap_or(self.least);
        Ok(Feasible { sizes: SizePlan::exactly(request.max(self.least)), snapshot_class: None })
    }
}
