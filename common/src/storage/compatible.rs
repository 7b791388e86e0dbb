//! The rule for StorageClasses: whether a volume of one can become a volume of another without a copy.

use crate::storage::class::Class;

/// Why the storage can't be shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Different drivers.
    Driver,
    /// The same driver, told different things: another pool, replica count, encryption … (containerized-data-importer#4068).
    Parameters,
}

/// Parameters that only say how a secret is found or what file system a blank volume gets; volumes are interchangeable in spite of them.
fn matters(key: &str) -> bool {
    !(key.starts_with("csi.storage.k8s.io/") && (key.ends_with("-secret-name") || key.ends_with("-secret-namespace")))
}

/// The same class; or another one of the same driver with equal parameters, or declared compatible by the admin on either of the two.
///
/// `driver` is that of the source's volume, which counts more than what its class (perhaps deleted since) says.
pub fn compatible(driver: &str, source: Option<&Class>, target: &Class) -> Result<(), Mismatch> {
    if target.provisioner != driver {
        return Err(Mismatch::Driver);
    }
    let Some(source) = source else { return Err(Mismatch::Parameters) };
    let declared = source.compatible_with.contains(&target.name) || target.compatible_with.contains(&source.name);
    let relevant = |class: &Class| -> Vec<(String, String)> {
        class.parameters.iter().filter(|(key, _)| matters(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    if source.name == target.name || declared || relevant(source) == relevant(target) {
        Ok(())
    } else {
        Err(Mismatch::Parameters)
    }
}
