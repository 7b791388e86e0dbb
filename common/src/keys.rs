//! Annotations, labels and finalizers that smartclone reads or writes.
//!
//! Keys with `cdi.kubevirt.io/` are CDI's and have CDI's meaning. Keys with `smartclone.dev/` have no counterpart in CDI.

use std::collections::BTreeMap;

/// Annotations to write; `None` removes a key.
pub type Annotations = BTreeMap<&'static str, Option<String>>;

// DataVolumes and their claims.

/// The strategy of the clone (`snapshot`, `csi-clone`, `copy`). On the DataVolume: the requester's choice at creation, which nobody
/// changes, else the decision, which only the controller may change. On its claim: the strategy in use.
pub const CLONE_TYPE: &str = "cdi.kubevirt.io/cloneType";
/// The reason for not using a cheaper strategy, as a sentence. On the DataVolume and on its claim; absent if there is none.
pub const CLONE_FALLBACK_REASON: &str = "cdi.kubevirt.io/cloneFallbackReason";
/// The phase of the clone in the terms of CDI's populator (`Pending`, `Snapshot`, …, `Succeeded`, `Error`). On the claim.
pub const CLONE_PHASE: &str = "cdi.kubevirt.io/clonePhase";
/// The UID of the DataVolume for which a claim was created. On the claim.
pub const CREATED_FOR_DATA_VOLUME: &str = "cdi.kubevirt.io/createdForDataVolume";
/// If present, the clone does not wait for a first consumer. On the DataVolume and on its claim.
pub const IMMEDIATE_BINDING: &str = "cdi.kubevirt.io/storage.bind.immediate.requested";
/// The progress of the clone, as `status.progress` of a DataVolume. On the claim.
pub const POPULATOR_PROGRESS: &str = "cdi.kubevirt.io/storage.populator.progress";
/// `true` if work on the claim is in progress, else `false`. On the claim.
pub const CONDITION_RUNNING: &str = "cdi.kubevirt.io/storage.condition.running";
/// The message of [`CONDITION_RUNNING`].
pub const CONDITION_RUNNING_MESSAGE: &str = "cdi.kubevirt.io/storage.condition.running.message";
/// The reason code of [`CONDITION_RUNNING`].
pub const CONDITION_RUNNING_REASON: &str = "cdi.kubevirt.io/storage.condition.running.reason";
/// `false` while the claim waits for something; CDI shows it as the condition Bound of the DataVolume while the claim is pending. On the
/// claim.
pub const CONDITION_BOUND: &str = "cdi.kubevirt.io/storage.condition.bound";
/// The message of [`CONDITION_BOUND`].
pub const CONDITION_BOUND_MESSAGE: &str = "cdi.kubevirt.io/storage.condition.bound.message";
/// The reason code of [`CONDITION_BOUND`].
pub const CONDITION_BOUND_REASON: &str = "cdi.kubevirt.io/storage.condition.bound.reason";
/// The name of a DataVolume for which the claim of that name is already filled (backup and restore). On the claim.
pub const POPULATED_FOR: &str = "cdi.kubevirt.io/storage.populatedFor";
/// The name of a claim that is already filled, or [`SENTINEL`]. CDI leaves a DataVolume alone that has it, whatever the value. On the
/// DataVolume.
pub const PRE_POPULATED: &str = "cdi.kubevirt.io/storage.prePopulated";
/// The value of [`PRE_POPULATED`] by which smartclone marks its clones beside CDI. CDI, KubeVirt and backups write the name of a claim, or
/// `true`.
pub const SENTINEL: &str = "smartclone.dev";
/// `true`: the claim is filled by a populator, and CDI derives the phase of its DataVolume from [`CLONE_PHASE`]. On the DataVolume and on
/// its claim.
pub const USE_POPULATOR: &str = "cdi.kubevirt.io/storage.usePopulator";
/// CDI's permission for its own controller to clone, which its webhook writes and which is valid for 5 min. On the DataVolume.
pub const CLONE_TOKEN: &str = "cdi.kubevirt.io/storage.clone.token";
/// The same permission without a time limit, which CDI's controller writes. On the DataVolume.
pub const EXTENDED_CLONE_TOKEN: &str = "cdi.kubevirt.io/storage.extended.clone.token";
/// If present, a DataVolume may adopt a claim of its name. On the DataVolume, or on the claim.
pub const ALLOW_ADOPTION: &str = "cdi.kubevirt.io/allowClaimAdoption";
/// If present, a volume that is reserved for the DataVolume's claim may exist (backup and restore). On the DataVolume.
pub const CHECK_STATIC_VOLUME: &str = "cdi.kubevirt.io/storage.checkStaticVolume";
/// The volume mode of the source of a snapshot (`Block`, `Filesystem`). On the VolumeSnapshot.
pub const SOURCE_VOLUME_MODE: &str = "cdi.kubevirt.io/storage.import.sourceVolumeMode";
/// The namespace of the VolumeCloneSource that a claim names in its `dataSourceRef`. On the claim.
pub const DATA_SOURCE_NAMESPACE: &str = "cdi.kubevirt.io/dataSourceNamespace";
/// The owner of a temporary object in another namespace, as `namespace/name`. On temporary objects.
pub const OWNED_BY_DATA_VOLUME: &str = "smartclone.dev/owned-by";
/// The content type of the volume (`kubevirt`, `archive`). On the claim.
pub const CONTENT_TYPE: &str = "cdi.kubevirt.io/storage.contentType";

/// The requester of the clone, as JSON, written at admission. On the DataVolume.
pub const REQUESTER: &str = "smartclone.dev/requester";
/// The decision at admission with its reasons, as JSON. On the DataVolume.
pub const PLAN: &str = "smartclone.dev/plan";
/// `true` on a clone that smartclone has taken beside CDI, written together with [`SENTINEL`]. A clone that has it and lacks the sentinel
/// was released to CDI. On the DataVolume, or on the claim that is filled without one.
///
/// `false` leaves a clone to CDI: at its creation, on the DataVolume or claim; on a StorageClass, all clones into it; in an update that also
/// removes the sentinel, a clone that smartclone has taken.
pub const BESIDE_CDI: &str = "smartclone.dev/beside-cdi";
/// `Allowed` (default) or `Never`: permission to use a more expensive strategy than the wanted one. On the DataVolume.
pub const FALLBACK: &str = "smartclone.dev/fallback";
/// `Offline` (default: wait until nobody can write to the source) or `CrashConsistent` (take the snapshot immediately). On the DataVolume.
pub const CONSISTENCY: &str = "smartclone.dev/consistency";
/// The BLAKE3 digest of content that was copied and verified. If present, the copy is complete. On the claim.
pub const COPIED: &str = "smartclone.dev/copied";
/// The UID of the claim that a data mover fills. Its result does not count for another claim of that name. On the pod.
pub const FILLS: &str = "smartclone.dev/fills";
/// The clones that share a temporary snapshot: JSON, UID → `namespace/name`. Written when the snapshot is created, never changed. On the
/// snapshot.
pub const MEMBERS: &str = "smartclone.dev/members";
/// The status of a clone, as JSON (the `status` that its DataVolume would have). On a claim that is filled without a DataVolume, and on the
/// claim of a DataVolume whose status CDI writes.
pub const STATUS: &str = "smartclone.dev/status";
/// `Keep`: the pod that copies files runs as root, to preserve their owners. Without it, the pod runs under Pod Security `restricted`. On
/// the DataVolume.
pub const FILE_OWNERS: &str = "smartclone.dev/file-owners";
/// A random secret of the clone, from which [`PROOF`] is computed. Written at admission (by the controller if admission missed it) and
/// never changed. On the DataVolume, or on the claim that is filled without one; never on an object that is created beside the source.
pub const OWNERSHIP_KEY: &str = "smartclone.dev/ownership-key";
/// Proof that the controller created a temporary object: see `common::clone::ownership`. On temporary objects.
pub const PROOF: &str = "smartclone.dev/proof";
/// The time of the last update that makes Kubernetes process a claim again. On the claim.
pub const NUDGED: &str = "smartclone.dev/nudged";
/// Maximum time for one strategy before the next one is tried, such as `10m`; at least `10s`, at most the limit of [`MAX_DEADLINE`]. On the
/// DataVolume, and on a StorageClass for all clones into it.
pub const DEADLINE: &str = "smartclone.dev/deadline";
/// Maximum of [`DEADLINE`] on a DataVolume, such as `2h`; a longer one is cut to it. Default: `1h`, or the StorageClass's own deadline if
/// that is longer. On the CDIConfig `config`, which only admins may change.
pub const MAX_DEADLINE: &str = "smartclone.dev/max-deadline";

// StorageClasses, StorageProfiles and snapshot classes.

/// The strategy for clones of this StorageClass, where its StorageProfile names none.
pub const CLASS_CLONE_STRATEGY: &str = "cdi.kubevirt.io/clone-strategy";
/// The size at which the driver restores a larger volume: `exact` (the source's size, expanded afterwards) or `larger` (the larger size at
/// once). On a StorageClass.
pub const RESTORE_SIZE: &str = "smartclone.dev/restore-size";
/// The minimum size of the driver's volumes, as a quantity. On a StorageProfile.
pub const MINIMUM_SIZE: &str = "cdi.kubevirt.io/minimumSupportedPvcSize";
/// The refusals of the driver that are shared between namespaces, as JSON (the `status.refusals` that CDI's definition does not have). On a
/// StorageProfile beside CDI.
pub const REFUSALS: &str = "smartclone.dev/refusals";
/// Names of StorageClasses, separated by commas. A smart clone between them and this one is safe although their parameters differ.
pub const COMPATIBLE_WITH: &str = "smartclone.dev/compatible-with";
/// `true` on the StorageClass that is the default one.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// `true` on the StorageClass that is the default one for the disks of virtual machines.
pub const DEFAULT_VIRT_CLASS: &str = "storageclass.kubevirt.io/is-default-virt-class";
/// `true` on the VolumeSnapshotClass that is the default one of its driver.
pub const DEFAULT_SNAPSHOT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";
/// The node that the scheduler selected for a volume of a StorageClass with `WaitForFirstConsumer`. On a claim.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// The label with which CDI makes a claim fit the StorageProfile: larger by the overhead of its file system.
pub const APPLY_STORAGE_PROFILE: &str = "cdi.kubevirt.io/applyStorageProfile";

// The CDI object.

/// On the CDI object: its `spec.config` alone is in effect, and the CDIConfig's own `spec` is not (CDI's meaning).
pub const CONFIG_AUTHORITY: &str = "cdi.kubevirt.io/configAuthority";

// Rebind of a volume.

/// The time at which a volume was rebound, from which the target waits to be bound. On the PersistentVolume, written together with
/// `claimRef`.
pub const HANDED_OVER: &str = "smartclone.dev/handed-over";

// DataSources.

/// The labels that a DataSource has inherited from its source, as JSON. Labels that differ were written by somebody else. On the
/// DataSource.
pub const INHERITED_LABELS: &str = "smartclone.dev/inherited-labels";

// ObjectTransfers.

/// The UID of the ObjectTransfer for which an object was created. On target claims and target DataVolumes.
pub const TRANSFER: &str = "smartclone.dev/transfer";
/// The reclaim policy that a volume gets back after a transfer. On the PersistentVolume, during the transfer.
pub const RECLAIM_POLICY: &str = "smartclone.dev/reclaim-policy";
/// Keeps an ObjectTransfer while one of its steps is incomplete (CDI's name).
pub const TRANSFER_FINALIZER: &str = "cdi.kubevirt.io/objectTransfer";

// Labels.

/// The instance type of virtual machines that boot from the disk. On claims, VolumeSnapshots, DataSources and DataVolumes; inherited by
/// clones.
pub const DEFAULT_INSTANCE_TYPE: &str = "instancetype.kubevirt.io/default-instancetype";
/// The kind of that instance type.
pub const DEFAULT_INSTANCE_TYPE_KIND: &str = "instancetype.kubevirt.io/default-instancetype-kind";
/// The preference of virtual machines that boot from the disk. On the same objects as the instance type, and inherited likewise.
pub const DEFAULT_PREFERENCE: &str = "instancetype.kubevirt.io/default-preference";
/// The kind of that preference.
pub const DEFAULT_PREFERENCE_KIND: &str = "instancetype.kubevirt.io/default-preference-kind";
/// The domain of the labels about instance types and preferences.
pub const INSTANCE_TYPES: &str = "instancetype.kubevirt.io";
/// The application to which an object belongs; the value is [`APP`].
pub const APP_LABEL: &str = "app";
/// The name of this project in labels.
pub const APP: &str = "smartclone";
/// Kubernetes' recommended label for the application to which an object belongs; the value is [`APP`].
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Kubernetes' recommended label for the component of the application; the values are [`WEBHOOK`], [`CONTROLLER`] and [`CLONER`].
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// The admission server, in [`COMPONENT_LABEL`].
pub const WEBHOOK: &str = "webhook";
/// The controller, in [`COMPONENT_LABEL`].
pub const CONTROLLER: &str = "controller";
/// A pod that copies, in [`COMPONENT_LABEL`].
pub const CLONER: &str = "cloner";
/// The UID of the DataVolume for which a temporary object was created. No temporary object is deleted without it. It is not CDI's label
/// [`CDI_OWNED_BY_UID`], by which CDI deletes what its own clones leave.
pub const OWNED_BY_UID: &str = "smartclone.dev/owned-by-uid";
/// The same label of CDI. CDI deletes every object that has it, so smartclone never writes it, and never copies it to a claim.
pub const CDI_OWNED_BY_UID: &str = "cdi.kubevirt.io/OwnedByUID";
/// `true` excludes an object from backups. On temporary objects.
pub const EXCLUDE_FROM_BACKUP: &str = "velero.io/exclude-from-backup";
/// `disabled` on claims whose file system is intentionally filled by one disk image.
pub const FILLING_UP_ALERT: &str = "alerts.k8s.io/KubePersistentVolumeFillingUp";

// Finalizers and field managers.

/// Keeps a DataVolume while its clone in another namespace has to be cleaned up. Left by CDI; removed from a DataVolume that is being
/// deleted.
pub const DATA_VOLUME_FINALIZER: &str = "cdi.kubevirt.io/dataVolumeFinalizer";
/// Keeps a claim while temporary objects of its clone have to be removed. Left by CDI; removed from a claim that is being deleted.
pub const CLONE_POPULATOR_FINALIZER: &str = "cdi.kubevirt.io/clonePopulator";
/// Keeps a claim that a pod copies from. Left by CDI; removed from a claim that is being deleted.
pub const CLONE_SOURCE_FINALIZER: &str = "cdi.kubevirt.io/cloneSource";
/// Keeps a temporary claim until the clone's claim has the volume. The temporary claim is deleted before its volume is rebound, so that no
/// pod can start with it. On temporary claims.
pub const HAND_OVER_FINALIZER: &str = "smartclone.dev/hand-over";
/// The controller's name as field manager and as reporter of events.
pub const CONTROLLER_MANAGER: &str = "smartclone-controller";

/// The prefix of smartclone's own keys, which CDI does not have.
pub const PREFIX: &str = "smartclone.dev/";

/// Annotations with the decision about a clone, on the DataVolume. Written only at admission and by the controller.
pub const DECISION: [&str; 5] = [CLONE_TYPE, CLONE_FALLBACK_REASON, PLAN, OWNERSHIP_KEY, BESIDE_CDI];

/// The labels that a clone inherits, together or not at all.
pub const MACHINE_DEFAULTS: [&str; 4] =
    [DEFAULT_INSTANCE_TYPE, DEFAULT_INSTANCE_TYPE_KIND, DEFAULT_PREFERENCE, DEFAULT_PREFERENCE_KIND];

/// Annotations, beside the label [`OWNED_BY_UID`], by which temporary objects are recognized and trusted. Only the controller writes them.
pub const EVIDENCE: [&str; 5] = [OWNED_BY_DATA_VOLUME, PROOF, FILLS, MEMBERS, COPIED];

/// The annotations by which CDI keeps off a clone beside it, and its permissions to clone, which it can't issue again. On the DataVolume.
pub const MARK: [&str; 4] = [PRE_POPULATED, USE_POPULATOR, CLONE_TOKEN, EXTENDED_CLONE_TOKEN];

/// True if these annotations of a DataVolume declare that the claim of its name is filled already.
pub fn declares_filled(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(PRE_POPULATED).is_some_and(|value| value != SENTINEL)
        || annotations.contains_key(CHECK_STATIC_VOLUME)
}

/// True for a key that is never copied from a DataVolume's labels or annotations to a claim.
pub fn is_reserved(key: &str) -> bool {
    key.starts_with(PREFIX) || key == CDI_OWNED_BY_UID
}
