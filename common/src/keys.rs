//! Keys: every annotation, label and finalizer that smartclone reads or writes.
//!
//! `cdi.kubevirt.io/` is CDI's and means what it means there; `smartclone.dev/` is for what CDI has no word for.

use std::collections::BTreeMap;

/// Annotations as they are to be; `None` removes a key.
pub type Annotations = BTreeMap<&'static str, Option<String>>;

// DataVolumes and their claims.

/// The strategy of the clone (`snapshot`, `csi-clone`, `copy`). Where the requester wished for one at creation, that wish, which nobody changes; else
/// the decision, which only the controller may change. On the DataVolume; on its claim the strategy in force.
pub const CLONE_TYPE: &str = "cdi.kubevirt.io/cloneType";
/// Why the clone isn't made in a cheaper way, in a sentence. On the DataVolume and on its claim; absent when there is nothing to say.
pub const CLONE_FALLBACK_REASON: &str = "cdi.kubevirt.io/cloneFallbackReason";
/// Where the clone stands, in the words of CDI's populator (`Pending`, `Snapshot`, …, `Succeeded`, `Error`). On the claim.
pub const CLONE_PHASE: &str = "cdi.kubevirt.io/clonePhase";
/// The UID of the DataVolume for which a claim was made. On the claim.
pub const CREATED_FOR_DATA_VOLUME: &str = "cdi.kubevirt.io/createdForDataVolume";
/// Its presence says not to wait for a first consumer. On the DataVolume and on its claim.
pub const IMMEDIATE_BINDING: &str = "cdi.kubevirt.io/storage.bind.immediate.requested";
/// How far the clone is, as `status.progress` of a DataVolume. On the claim.
pub const POPULATOR_PROGRESS: &str = "cdi.kubevirt.io/storage.populator.progress";
/// `true` or `false`: whether work on the claim is under way. On the claim.
pub const CONDITION_RUNNING: &str = "cdi.kubevirt.io/storage.condition.running";
/// A sentence that goes with [`CONDITION_RUNNING`].
pub const CONDITION_RUNNING_MESSAGE: &str = "cdi.kubevirt.io/storage.condition.running.message";
/// One word that goes with [`CONDITION_RUNNING`].
pub const CONDITION_RUNNING_REASON: &str = "cdi.kubevirt.io/storage.condition.running.reason";
/// The name of a DataVolume for which the claim of that name is already filled (backup and restore). On the claim.
pub const POPULATED_FOR: &str = "cdi.kubevirt.io/storage.populatedFor";
/// The name of a claim that is already filled. On the DataVolume.
pub const PRE_POPULATED: &str = "cdi.kubevirt.io/storage.prePopulated";
/// Its presence says that a DataVolume may take over a claim of its name. On the DataVolume, or on the claim.
pub const ALLOW_ADOPTION: &str = "cdi.kubevirt.io/allowClaimAdoption";
/// Its presence says that a volume which is reserved for the DataVolume's claim may exist (backup and restore). On the DataVolume.
pub const CHECK_STATIC_VOLUME: &str = "cdi.kubevirt.io/storage.checkStaticVolume";
/// How a source that a snapshot was made of was mounted (`Block`, `Filesystem`). On the VolumeSnapshot.
pub const SOURCE_VOLUME_MODE: &str = "cdi.kubevirt.io/storage.import.sourceVolumeMode";
/// The namespace of the VolumeCloneSource that a claim names in its `dataSourceRef`. On the claim.
pub const DATA_SOURCE_NAMESPACE: &str = "cdi.kubevirt.io/dataSourceNamespace";
/// For whom a temporary object in another namespace was made, as `namespace/name`. On temporary objects.
pub const OWNED_BY_DATA_VOLUME: &str = "cdi.kubevirt.io/ownedByDataVolume";
/// What the volume holds (`kubevirt`, `archive`). On the claim.
pub const CONTENT_TYPE: &str = "cdi.kubevirt.io/storage.contentType";

/// Who asked for the clone, as JSON, stamped at admission. On the DataVolume.
pub const REQUESTER: &str = "smartclone.dev/requester";
/// What was decided at admission and why, as JSON. On the DataVolume.
pub const PLAN: &str = "smartclone.dev/plan";
/// `Allowed` (the default) or `Never`: whether a dearer strategy than the wanted one may be taken. On the DataVolume.
pub const FALLBACK: &str = "smartclone.dev/fallback";
/// `Offline` (the default: wait until nobody can write to the source) or `CrashConsistent` (take the snapshot now). On the DataVolume.
pub const CONSISTENCY: &str = "smartclone.dev/consistency";
/// The BLAKE3 digest of a content that was copied and verified. On the claim; its presence says that the copy is complete.
pub const COPIED: &str = "smartclone.dev/copied";
/// The UID of the claim that a data mover fills: its result says nothing about another claim of that name. On the pod.
pub const FILLS: &str = "smartclone.dev/fills";
/// Which clones share a temporary snapshot: JSON, UID → `namespace/name`. Written when the snapshot is asked for, never changed. On the snapshot.
pub const MEMBERS: &str = "smartclone.dev/members";
/// How a clone stands, as JSON (the `status` that its DataVolume would have). On a claim that is filled without a DataVolume.
pub const STATUS: &str = "smartclone.dev/status";
/// `Keep`: the pod that copies files runs as root, to keep their owners; without it, under Pod Security `restricted`. On the DataVolume.
pub const FILE_OWNERS: &str = "smartclone.dev/file-owners";
/// A secret of the clone, random, from which [`PROOF`] is made. Written at admission (by the controller where that was missed) and never
/// changed. On the DataVolume, or on the claim that is filled without one; never on an object beside the source.
pub const OWNERSHIP_KEY: &str = "smartclone.dev/ownership-key";
/// Proves that the controller created a temporary object: `common::clone::ownership`. On temporary objects.
pub const PROOF: &str = "smartclone.dev/proof";
/// When a claim was touched to make Kubernetes look at it again. On the claim.
pub const NUDGED: &str = "smartclone.dev/nudged";
/// How long one strategy may take before the next one is tried, such as `10m`; at least `10s`, at most what [`MAX_DEADLINE`] allows. On
/// the DataVolume, and on a StorageClass for all clones into it.
pub const DEADLINE: &str = "smartclone.dev/deadline";
/// The longest [`DEADLINE`] that counts on a DataVolume, such as `2h`; a longer one is cut to it. Left out: `1h`, or the StorageClass's own
/// deadline where that is longer. On the CDIConfig `config`, which only admins may change.
pub const MAX_DEADLINE: &str = "smartclone.dev/max-deadline";

// StorageClasses, StorageProfiles and snapshot classes.

/// The strategy for clones of this StorageClass, where its StorageProfile names none.
pub const CLASS_CLONE_STRATEGY: &str = "cdi.kubevirt.io/clone-strategy";
/// How the driver wants a larger restore: `exact` (at the source's size, expanded afterwards) or `larger` (at once). On a StorageClass.
pub const RESTORE_SIZE: &str = "smartclone.dev/restore-size";
/// The smallest volume that the driver makes, as a quantity. On a StorageProfile.
pub const MINIMUM_SIZE: &str = "cdi.kubevirt.io/minimumSupportedPvcSize";
/// Names of StorageClasses, separated by commas, between which and this one a smart clone is safe though their parameters differ.
pub const COMPATIBLE_WITH: &str = "smartclone.dev/compatible-with";
/// `true` on the StorageClass that is the default one.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// `true` on the StorageClass that is the default one for the disks of virtual machines.
pub const DEFAULT_VIRT_CLASS: &str = "storageclass.kubevirt.io/is-default-virt-class";
/// `true` on the VolumeSnapshotClass that is the default one of its driver.
pub const DEFAULT_SNAPSHOT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";
/// The node on which the scheduler wants a volume of a class that waits for its first consumer. On a claim.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

// The CDI object.

/// On the CDI object: its `spec.config` alone is in force, and CDIConfig's own `spec` isn't (CDI's meaning).
pub const CONFIG_AUTHORITY: &str = "cdi.kubevirt.io/configAuthority";

// The hand-over of a volume.

/// When a volume was handed over, which is when the target begins to wait. On the PersistentVolume, written together with `claimRef`.
pub const HANDED_OVER: &str = "smartclone.dev/handed-over";

// DataSources.

/// Which labels of its source a DataSource has inherited, as JSON: what differs from it was written by somebody else. On the DataSource.
pub const INHERITED_LABELS: &str = "smartclone.dev/inherited-labels";

// ObjectTransfers.

/// The UID of the ObjectTransfer for which an object was made. On target claims and target DataVolumes.
pub const TRANSFER: &str = "smartclone.dev/transfer";
/// The reclaim policy that a volume has when it isn't on its way. On the PersistentVolume, as long as it is.
pub const RECLAIM_POLICY: &str = "smartclone.dev/reclaim-policy";
/// Holds an ObjectTransfer until nothing of it is left half done (CDI's name).
pub const TRANSFER_FINALIZER: &str = "cdi.kubevirt.io/objectTransfer";

// Labels.

/// The instance type of virtual machines that boot from the disk. On claims, VolumeSnapshots, DataSources and DataVolumes; inherited by clones.
pub const DEFAULT_INSTANCE_TYPE: &str = "instancetype.kubevirt.io/default-instancetype";
/// The kind of that instance type.
pub const DEFAULT_INSTANCE_TYPE_KIND: &str = "instancetype.kubevirt.io/default-instancetype-kind";
/// The preference of virtual machines that boot from the disk; where and how, as the instance type.
pub const DEFAULT_PREFERENCE: &str = "instancetype.kubevirt.io/default-preference";
/// The kind of that preference.
pub const DEFAULT_PREFERENCE_KIND: &str = "instancetype.kubevirt.io/default-preference-kind";
/// The domain of the labels about instance types and preferences.
pub const INSTANCE_TYPES: &str = "instancetype.kubevirt.io";
/// What an object belongs to; the value is [`APP`].
pub const APP_LABEL: &str = "app";
/// The name of this project in labels.
pub const APP: &str = "smartclone";
/// Kubernetes' recommended label for what an object belongs to; the value is [`APP`].
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Kubernetes' recommended label for the part of the project; the values are [`WEBHOOK`], [`CONTROLLER`] and [`CLONER`].
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// The admission server, in [`COMPONENT_LABEL`].
pub const WEBHOOK: &str = "webhook";
/// The controller, in [`COMPONENT_LABEL`].
pub const CONTROLLER: &str = "controller";
/// A pod that copies, in [`COMPONENT_LABEL`].
pub const CLONER: &str = "cloner";
/// The UID of the DataVolume for which a temporary object was made. Without it, nothing is ever deleted.
pub const OWNED_BY_UID: &str = "cdi.kubevirt.io/OwnedByUID";
/// `true`: not worth a backup. On temporary objects.
pub const EXCLUDE_FROM_BACKUP: &str = "velero.io/exclude-from-backup";
/// `disabled` on claims with a file system that is meant to be full of one disk image.
pub const FILLING_UP_ALERT: &str = "alerts.k8s.io/KubePersistentVolumeFillingUp";

// Finalizers and field managers.

/// Keeps a DataVolume while its clone in another namespace has to be cleaned up. Left by CDI; taken off a DataVolume that is being deleted.
pub const DATA_VOLUME_FINALIZER: &str = "cdi.kubevirt.io/dataVolumeFinalizer";
/// Keeps a claim while temporary objects of its clone have to be removed. Left by CDI; taken off a claim that is being deleted.
pub const CLONE_POPULATOR_FINALIZER: &str = "cdi.kubevirt.io/clonePopulator";
/// Keeps a claim that a pod copies from. Left by CDI; taken off a claim that is being deleted.
pub const CLONE_SOURCE_FINALIZER: &str = "cdi.kubevirt.io/cloneSource";
/// Keeps the temporary claim, which is deleted before its volume is handed over so that no pod can start with it, until the clone's claim has
/// the volume. On temporary claims.
pub const HAND_OVER_FINALIZER: &str = "smartclone.dev/hand-over";
/// Under whose name the controller applies fields, and reports events.
pub const CONTROLLER_MANAGER: &str = "smartclone-controller";

/// The prefix of every key of ours that CDI doesn't have.
pub const PREFIX: &str = "smartclone.dev/";

/// The decision about a clone, on the DataVolume. Written at admission and by the controller, and by nobody else.
pub const DECISION: [&str; 4] = [CLONE_TYPE, CLONE_FALLBACK_REASON, PLAN, OWNERSHIP_KEY];

/// The labels that a clone inherits, together or not at all.
pub const MACHINE_DEFAULTS: [&str; 4] =
    [DEFAULT_INSTANCE_TYPE, DEFAULT_INSTANCE_TYPE_KIND, DEFAULT_PREFERENCE, DEFAULT_PREFERENCE_KIND];

/// Annotations, beside the label [`OWNED_BY_UID`], by which temporary objects are recognized and trusted. Only the controller writes them.
pub const EVIDENCE: [&str; 5] = [OWNED_BY_DATA_VOLUME, PROOF, FILLS, MEMBERS, COPIED];

/// Whether `key` is one that never reaches a claim from a DataVolume's labels or annotations.
pub fn is_reserved(key: &str) -> bool {
    key.starts_with(PREFIX) || key == OWNED_BY_UID || EVIDENCE.contains(&key)
}
