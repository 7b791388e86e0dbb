//! Users with limited rights.

use anyhow::Result;
use common::{
    object::{ObjectName, SourceKind, SourceName},
    requester::{Reference, Requester, questions, reference_right},
};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview};
use kube::{Api, api::PostParams};

use super::{
    Named, Space,
    wait::{Look, PATIENCE},
};
use crate::lab::command::until;

impl Space {
    /// Binds a user to the ClusterRole `admin` in this namespace only.
    pub async fn administered_by(&self, user: &str) -> Result<()> {
        let subject = format!("--user={user}");
        self.kubectl(&["create", "rolebinding", &format!("admin-{user}"), "--clusterrole=admin", &subject]).await?;
        let create = |group: &str, resource: &str| ResourceAttributes {
            verb: Some("create".to_owned()),
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            namespace: Some(self.name().to_owned()),
            ..ResourceAttributes::default()
        };
        self.knows(user, create("cdi.kubevirt.io", "datavolumes"), true).await?;
        self.knows(user, create("", "persistentvolumeclaims"), true).await
    }

    /// Grants a user the right to clone this claim of the namespace, and nothing else, until [`Space::forbids_cloning`].
    pub async fn lets_clone(&self, user: &str, claim: &(impl Named + ?Sized)) -> Result<()> {
        let (role, name) = (format!("clone-{}", claim.name()), format!("--resource-name={}", claim.name()));
        let resource = "--resource=datavolumes.cdi.kubevirt.io/source";
        self.kubectl(&["create", "role", &role, "--verb=create", resource, &name]).await?;
        let (role, subject) = (format!("--role={role}"), format!("--user={user}"));
        self.kubectl(&["create", "rolebinding", &binding(user, claim), &role, &subject]).await?;
        self.knows_source_right(user, claim, true).await
    }

    /// Revokes the right that [`Space::lets_clone`] has granted.
    pub async fn forbids_cloning(&self, user: &str, claim: &(impl Named + ?Sized)) -> Result<()> {
        self.kubectl(&["delete", "rolebinding", &binding(user, claim)]).await?;
        self.kubectl(&["delete", "role", &format!("clone-{}", claim.name())]).await?;
        self.knows_source_right(user, claim, false).await
    }

    /// Grants a user the right to get this DataSource or VolumeCloneSource of the namespace, and nothing else, until
    /// [`Space::forbids_reading`].
    pub async fn lets_read(&self, user: &str, kind: Reference, name: &str) -> Result<()> {
        let right = self.reading(kind, name);
        let role = format!("read-{name}");
        let resource = format!("--resource={}.cdi.kubevirt.io", right.resource.clone().unwrap_or_default());
        self.kubectl(&["create", "role", &role, "--verb=get", &resource, &format!("--resource-name={name}")]).await?;
        let (of_role, subject) = (format!("--role={role}"), format!("--user={user}"));
        self.kubectl(&["create", "rolebinding", &format!("{user}-reads-{name}"), &of_role, &subject]).await?;
        self.knows(user, right, true).await
    }

    /// Revokes the right that [`Space::lets_read`] has granted.
    pub async fn forbids_reading(&self, user: &str, kind: Reference, name: &str) -> Result<()> {
        self.kubectl(&["delete", "rolebinding", &format!("{user}-reads-{name}")]).await?;
        self.kubectl(&["delete", "role", &format!("read-{name}")]).await?;
        self.knows(user, self.reading(kind, name), false).await
    }

    fn reading(&self, kind: Reference, name: &str) -> ResourceAttributes {
        reference_right(kind, &ObjectName { namespace: self.name().to_owned(), name: name.to_owned() })
    }

    /// Waits until the API server's answer about a user's right to clone this claim is `allowed`.
    pub async fn knows_source_right(&self, user: &str, claim: &(impl Named + ?Sized), allowed: bool) -> Result<()> {
        let object = ObjectName { namespace: self.name().to_owned(), name: claim.name().to_owned() };
        let right = questions(&SourceName { kind: SourceKind::Claim, object }).into_iter().flatten().next();
        self.knows(user, right.unwrap_or_default(), allowed).await
    }

    /// Waits for the answer of the API server, which learns about rights by watches that can't be observed.
    async fn knows(&self, user: &str, right: ResourceAttributes, allowed: bool) -> Result<()> {
        let groups = vec!["system:authenticated".to_owned()];
        let question = Requester { username: user.to_owned(), groups, ..Requester::default() }.may(right);
        let api: Api<SubjectAccessReview> = self.everywhere();
        until(&format!("the API server to know what {user} may do"), PATIENCE, async || {
            let answer = api.create(&PostParams::default(), &question).await?.status;
            let now = answer.as_ref().is_some_and(|answer| answer.allowed);
            Ok(if now == allowed { Look::Break(()) } else { Look::Continue(format!("{answer:?}")) })
        })
        .await
    }
}

fn binding(user: &str, claim: &(impl Named + ?Sized)) -> String {
    format!("{user}-clones-{}", claim.name())
}
