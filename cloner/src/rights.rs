//! The identity of this process, and the advice to users if its rights do not suffice.

use std::sync::LazyLock;

use common::mover::KEEP_OWNERS;

static USER: LazyLock<(u32, u32)> =
    LazyLock::new(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));

/// True if the process may change owners and override permissions.
pub fn is_root() -> bool {
    USER.0 == 0
}

/// True if the process may set permissions and times of a file of this owner.
pub fn is_own(owner: u32) -> bool {
    is_root() || owner == USER.0
}

/// The advice to users who need root's rights; `None` for root.
pub fn advice() -> Option<String> {
    (!is_root()).then(|| format!("annotate the DataVolume with {KEEP_OWNERS} to copy as root"))
}

/// The reason why the source can't be read, with the cure.
pub fn may_not_read() -> String {
    match advice() {
        Some(advice) => format!("user {} with group {} may not read it; {advice}", USER.0, USER.1),
        None => "even root may not read it; does the storage let root in?".to_owned(),
    }
}

/// The reason why the target can't be written, with the cure.
pub fn may_not_write() -> String {
    match advice() {
        Some(advice) => format!(
            "user {} with group {} may not write to it; the volume's driver has to honour the pod's fsGroup, or {advice}",
            USER.0, USER.1
        ),
        None => "even root may not write to it; does the storage let root in?".to_owned(),
    }
}
