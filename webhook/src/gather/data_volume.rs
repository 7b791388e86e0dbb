//! The facts about a new DataVolume: settings, name conflict, and the source as far as the
//! requester may read it.

use std::sync::Arc;

use common::{
    admission,
    api::DataVolume,
    clone::{ClusterStorage, Request as Wanted, facts::Source},
    data_source::Resolution,
    field::FieldError,
    lookup::Lookup,
    machine_defaults::Labels,
    object::{ObjectName, SourceKind},
    pods::User,
    requester::Reference,
};
use futures::FutureExt;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::{
    Stop,
    access::{Asker, Right},
    cluster::Cluster,
    read_cache::Freshness,
};

/// A new DataVolume whose source has to be read.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// The DataVolume.
    pub(crate) volume: &'a DataVolume,
    /// The clone that it asks for.
    pub(crate) wanted: &'a Wanted,
    /// The DataSource that leads to the source, if it names one.
    pub(crate) reference: Option<&'a ObjectName>,
    /// The requester.
    pub(crate) asker: Asker<'a>,
    /// True if the pods that use the source are to be read, for a warning.
    pub(crate) with_users: bool,
}

/// All inputs of a decision about a new DataVolume except the object itself.
pub(crate) struct GatheredFacts {
    /// Classes, profiles and CDI's objects.
    pub(crate) settings: Arc<ClusterStorage>,
    /// The clones that smartclone serves.
    pub(crate) scope: Scope,
    /// Facts about the clone; `None` if nothing had to be read.
    pub(crate) clone: Option<CloneFacts>,
}

/// The clones that smartclone serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All.
    Alone,
    /// Those that it takes; CDI serves the others.
    BesideCdi {
        /// True if the controller's Lease is fresh.
        is_controller_alive: bool,
    },
}

/// The facts about one clone.
pub(crate) struct CloneFacts {
    /// The claim that has the name of the clone's claim.
    pub(crate) namesake: Lookup<PersistentVolumeClaim>,
    /// The source, or the reason why it was not read. It is irrelevant for a DataVolume that takes over its namesake.
    pub(crate) source: Result<SourceFacts, Stop>,
}

/// The source, as far as it is known.
pub(crate) enum SourceFacts {
    /// The DataSource does not lead to a source, with the reason.
    Unresolved(String),
    /// The DataSource could not be read, with the reason.
    Unclear(String),
    /// The DataVolume does not fit the source of the DataSource.
    Invalid(Vec<FieldError>),
    /// The source was looked up.
    Found(FoundSource),
}

/// A source that was looked up.
pub(crate) struct FoundSource {
    /// The clone request with the DataSource resolved, if there is a DataSource.
    pub(crate) resolved: Option<Box<Wanted>>,
    /// The object that has the source's name.
    pub(crate) source: Box<Lookup<Source>>,
    /// The pods that use it.
    pub(crate) users: Vec<User>,
    /// The labels that the clone inherits from the DataSource.
    pub(crate) inherited: Labels,
}

/// Gathers the facts; those about `subject` only if there is one. The reads run concurrently, since a user waits for all of them.
pub(crate) async fn gather(
    subject: Option<Subject<'_>>,
    cluster: &Cluster,
    freshness: Freshness,
) -> Result<GatheredFacts, Stop> {
    let clone = async {
        let subject = subject?;
        let namesake = cluster.namesake(&subject.wanted.target, freshness);
        let (namesake, source) = tokio::join!(namesake, subject.source(cluster, freshness));
        Some(CloneFacts { namesake, source })
    };
    let settings = async {
        let settings = cluster.settings_at(freshness).await?;
        let scope = if settings.is_beside_cdi {
            Scope::BesideCdi { is_controller_alive: cluster.is_controller_alive(freshness).await }
        } else {
            Scope::Alone
        };
        Ok::<_, Stop>((settings.storage, scope))
    };
    // Cached settings are available at once: where smartclone is passive, nothing is read for the clone.
    let ((settings, scope), clone) = tokio::try_join!(biased; settings, clone.map(Ok))?;
    Ok(GatheredFacts { settings, scope, clone })
}

impl Subject<'_> {
    async fn source(self, cluster: &Cluster, freshness: Freshness) -> Result<SourceFacts, Stop> {
        match self.reference {
            Some(reference) => self.follow(reference, cluster, freshness).await,
            None => Ok(SourceFacts::Found(self.look_up(self.wanted, cluster, freshness).await?)),
        }
    }

    /// Follows the DataSource. One in another namespace is followed for requesters who may read it there, and then to the end of the chain:
    /// its status, which they may read as well, says where the chain leads.
    async fn follow(
        self,
        reference: &ObjectName,
        cluster: &Cluster,
        freshness: Freshness,
    ) -> Result<SourceFacts, Stop> {
        if self.volume.metadata.namespace.as_ref() != Some(&reference.namespace) {
            let right = Right::Follow(Reference::DataSource, reference.clone());
            cluster.check_access(self.asker, &right, "spec.sourceRef", freshness).await?;
        }
        let (resolution, inherited) = cluster.data_source(reference, freshness).await;
        Ok(match resolution {
            Resolution::Not(why) => SourceFacts::Unresolved(why.message()),
            Resolution::Unknown(why) => {
                SourceFacts::Unclear(format!("DataSource {reference} could not be read: {why}"))
            }
            Resolution::Found(source) => match Wanted::resolved(self.volume, source) {
                Ok(wanted) => {
                    let found = self.look_up(&wanted, cluster, freshness).await?;
                    SourceFacts::Found(FoundSource { resolved: Some(wanted), inherited, ..found })
                }
                Err(errors) => SourceFacts::Invalid(errors),
            },
        })
    }

    /// Looks the source up. One in another namespace is looked up for requesters who may clone it. A right that was checked a moment ago is
    /// cached.
    async fn look_up(self, wanted: &Wanted, cluster: &Cluster, freshness: Freshness) -> Result<FoundSource, Stop> {
        if wanted.crosses() {
            let right = Right::Clone(wanted.source.clone());
            cluster.check_access(self.asker, &right, admission::namespace_path(wanted), freshness).await?;
        }
        let users = async {
            let is_needed = self.with_users && wanted.source.kind == SourceKind::Claim;
            if is_needed { cluster.users(&wanted.source.object).await } else { Vec::new() }
        };
        let (source, users) = tokio::join!(cluster.source(&wanted.source, freshness), users);
        Ok(FoundSource { resolved: None, source: Box::new(source), users, inherited: Labels::new() })
    }
}
