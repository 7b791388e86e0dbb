//! The candidates of a decision, cheapest first: each is feasible, or has a fallback reason.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{CloneStrategy, Refusal},
    clone::{
        decide::{
            modes::{self, access_modes},
            reason::FallbackReason,
            size::{Resize, SizePlan, size},
        },
        facts::{Facts, Source},
        note::History,
        request::Request,
    },
    lookup::Lookup,
    object::{ContentType, SourceKind, VolumeMode},
    quantity::Bytes,
    storage::{
        class::Class,
        compatible::{Mismatch, SourceClass, compatible},
        refusals::{self, RefusalKey, VolumeRequest},
        snapshot_class,
    },
};

/// The sizes and the snapshot class of a feasible strategy.
pub(crate) struct Feasible {
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
    /// The smallest volume that holds the content in the clone's volume mode.
    pub(super) least: Bytes,
    pub(super) facts: &'a Facts,
}

/// The VolumeSnapshotClass for a snapshot.
enum SnapshotClassChoice {
    Class(String),
    None(FallbackReason),
    /// The classes could not be read.
    Unknown(String),
}

/// A strategy with its feasibility.
pub(crate) struct Candidate {
    pub(super) strategy: CloneStrategy,
    /// The feasibility.
    pub(super) feasibility: Feasibility,
    /// The reason if it is feasible, but the driver recently refused it for a similar clone. Another feasible strategy without such a
    /// reason is preferred; if there is none, this one is tried.
    pub(super) remembered: Option<FallbackReason>,
}

/// A feasible strategy, or the reason why it is not feasible.
pub(crate) type Feasibility = Result<Feasible, FallbackReason>;

impl Candidates<'_> {
    /// All strategies, cheapest first. Fails if something could not be read.
    pub(super) fn candidates(&self) -> Result<Vec<Candidate>, String> {
        let candidate = |strategy| {
            let feasibility = self.feasibility(strategy)?;
            let remembered = feasibility.as_ref().ok().and_then(|feasible| self.remembered(strategy, feasible));
            Ok(Candidate { strategy, feasibility, remembered })
        };
        CloneStrategy::ALL.iter().copied().map(candidate).collect()
    }

    /// The feasibility of a strategy; the outer error tells why it is not known.
    fn feasibility(&self, strategy: CloneStrategy) -> Result<Feasibility, String> {
        if let Some(reason) = self.refused(strategy) {
            return Ok(Err(reason));
        }
        Ok(match strategy {
            CloneStrategy::CsiClone if self.source.kind == SourceKind::Snapshot => {
                Err(FallbackReason::SourceIsSnapshot)
            }
            CloneStrategy::Snapshot if self.source.kind == SourceKind::Claim => match self.shared_storage() {
                Err(reason) => Err(reason),
                Ok(sizes) => match self.snapshot_class() {
                    SnapshotClassChoice::Unknown(why) => return Err(why),
                    SnapshotClassChoice::None(reason) => Err(reason),
                    SnapshotClassChoice::Class(name) => Ok(Feasible { sizes, snapshot_class: Some(name) }),
                },
            },
            CloneStrategy::Snapshot | CloneStrategy::CsiClone => {
                self.shared_storage().map(|sizes| Feasible { sizes, snapshot_class: None })
            }
            CloneStrategy::Copy => self.copy(),
        })
    }

    /// The reason if the driver refused this clone, or was too slow.
    fn refused(&self, strategy: CloneStrategy) -> Option<FallbackReason> {
        let past = self.history.refused.iter().find(|past| past.strategy == strategy)?;
        let message = past.message.clone();
        Some(if past.too_slow { FallbackReason::TooSlow(message) } else { FallbackReason::Refused(message) })
    }

    /// The reason if the driver recently refused a similar clone. It is a hint and rejects nothing: see [`Candidate::remembered`].
    fn remembered(&self, strategy: CloneStrategy, feasible: &Feasible) -> Option<FallbackReason> {
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
            attributes_class: self.request.attributes_class.clone(),
        };
        if let Some(here) = profile.refused_here.iter().find(|refusal| refusal.is_about(&key, &request)) {
            return Some(FallbackReason::RefusedHere {
                count: here.count,
                code: here.met.code,
                message: here.met.message.clone(),
                until: here.until,
            });
        }
        // A recorded decision is not changed by the refusals of other namespaces.
        if self.history.pinned_for(&self.source.uid).is_some() {
            return None;
        }
        let applies =
            |refusal: &&Refusal| refusals::is_about(refusal, &key) && refusals::least_size(refusal) <= request.size;
        let refusal = profile.refused.iter().find(applies)?;
        let at = |time: &Option<Time>| time.as_ref().map(|time| time.0);
        Some(FallbackReason::RefusedToOthers {
            code: refusal.reason.clone().unwrap_or_default(),
            last: at(&refusal.last),
            until: at(&refusal.until),
            class: self.class.name.clone(),
        })
    }

    /// The common conditions of snapshot and CSI clone, for which the driver creates the new volume from the old one.
    fn shared_storage(&self) -> Result<SizePlan, FallbackReason> {
        let (source, target) = (self.source, self.class);
        let Some(driver) = source.driver.present() else {
            return Err(FallbackReason::NoCsiDriver);
        };
        // The StorageClass of a snapshot's claim isn't known; only the driver can be compared.
        let same = match source.kind {
            SourceKind::Claim => {
                let object = self.facts.source_class.present();
                compatible(driver, SourceClass { name: &source.class, object }, target)
            }
            SourceKind::Snapshot if *driver == target.provisioner => Ok(()),
            SourceKind::Snapshot => Err(Mismatch::Driver),
        };
        match same {
            Ok(()) => {}
            Err(Mismatch::Driver) => {
                return Err(FallbackReason::OtherDriver {
                    driver: driver.clone(),
                    class: target.name.clone(),
                    provisioner: target.provisioner.clone(),
                });
            }
            Err(Mismatch::NoSourceClass) => {
                return Err(FallbackReason::NoSourceClass {
                    source_class: source.class.clone(),
                    class: target.name.clone(),
                });
            }
            Err(Mismatch::Parameters) => {
                return Err(FallbackReason::OtherParameters {
                    source_class: source.class.clone(),
                    class: target.name.clone(),
                });
            }
        }
        let mode = source.mode.unwrap_or(self.mode);
        if mode != self.mode {
            return Err(FallbackReason::OtherVolumeMode { source: mode, clone: self.mode });
        }
        let Resize { request, source: size_of_source, rule, expands } = self.resize;
        size(request, size_of_source, rule, expands).map_err(|error| FallbackReason::NoVolumeExpansion {
            error,
            capacity: size_of_source.capacity,
            class: target.name.clone(),
        })
    }

    /// The VolumeSnapshotClass for the snapshot.
    fn snapshot_class(&self) -> SnapshotClassChoice {
        let driver = &self.class.provisioner;
        let profile = match &self.facts.profile {
            Lookup::Unknown(why) => return SnapshotClassChoice::Unknown(why.clone()),
            profile => profile.present().and_then(|p| p.snapshot_class.as_deref()),
        };
        let classes = match &self.facts.snapshot_classes {
            Lookup::Unknown(why) => return SnapshotClassChoice::Unknown(why.clone()),
            Lookup::Absent => return SnapshotClassChoice::None(FallbackReason::NoSnapshotApi),
            Lookup::Present(classes) => classes,
        };
        match (snapshot_class::choose(driver, classes, profile), profile) {
            (Some(class), _) => SnapshotClassChoice::Class(class.name.clone()),
            (None, Some(name)) => SnapshotClassChoice::None(FallbackReason::UnknownSnapshotClass {
                profile: self.class.name.clone(),
                snapshot_class: name.to_owned(),
                driver: driver.clone(),
            }),
            (None, None) => SnapshotClassChoice::None(FallbackReason::NoSnapshotClass { driver: driver.clone() }),
        }
    }

    fn copy(&self) -> Feasibility {
        let access_modes = access_modes(self.request, self.source, self.mode, self.facts);
        if !modes::is_writable(&access_modes) {
            return Err(FallbackReason::ReadOnly { access_modes });
        }
        let mode = self.source.mode.unwrap_or(self.mode);
        if mode != self.mode && self.request.content == ContentType::Archive {
            return Err(FallbackReason::NotConverted { source: mode });
        }
        if self.source.kind == SourceKind::Snapshot && self.facts.source_class.present().is_none() {
            return Err(FallbackReason::NoProvisionerMatch);
        }
        // A blank volume can have any size, so no new error is possible here.
        let request = self.resize.request.unwrap_or(self.least);
        Ok(Feasible { sizes: SizePlan::exactly(request.max(self.least)), snapshot_class: None })
    }
}
