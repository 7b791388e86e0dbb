//! The compatibility of StorageClasses: decides if a volume of one can become a volume of another without a copy.

use crate::storage::class::Class;

/// The StorageClass of the source's volume. Its object may be missing: it was deleted or renamed, or the volume was created by hand
/// (longhorn#4194).
#[derive(Debug, Clone, Copy)]
pub struct SourceClass<'a> {
    /// The name; empty if the volume names none.
    pub name: &'a str,
    /// The object, if it exists.
    pub object: Option<&'a Class>,
}

/// The reason why two StorageClasses are not compatible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Different drivers.
    Driver,
    /// The same driver with different parameters: another pool, replica count, encryption … (containerized-data-importer#4068).
    Parameters,
    /// The same driver; the source's parameters are not known because its StorageClass does not exist.
    NoSourceClass,
}

/// False for parameters that only name a secret; volumes are interchangeable in spite of them.
fn matters(key: &str) -> bool {
    !(key.starts_with("csi.storage.k8s.io/") && (key.ends_with("-secret-name") || key.ends_with("-secret-namespace")))
}

/// Accepts the same class, or another one of the same driver with equal parameters or declared compatible by the admin on either of the
/// two.
///
/// `driver` is the driver of the source's volume; it outranks the one in the source's class, which may be deleted. The provisioner never
/// reads the source's class, so the admin's declaration suffices if that is missing.
pub fn compatible(driver: &str, source: SourceClass<'_>, target: &Class) -> Result<(), Mismatch> {
    if target.provisioner != driver {
        return Err(Mismatch::Driver);
    }
    let named = |class: &Class, name: &str| class.compatible_with.iter().any(|other| other == name);
    let declared = !source.name.is_empty() && named(target, source.name)
        || source.object.is_some_and(|class| named(class, &target.name));
    if source.name == target.name || declared {
        return Ok(());
    }
    let Some(class) = source.object else { return Err(Mismatch::NoSourceClass) };
    let relevant = |class: &Class| -> Vec<(String, String)> {
        class.parameters.iter().filter(|(key, _)| matters(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    if relevant(class) == relevant(target) { Ok(()) } else { Err(Mismatch::Parameters) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// A class of driver `d` from its name, a parameter, and the classes it is declared compatible with.
    fn class((name, parameter, compatible_with): (&str, &str, &str)) -> Class {
        let class = serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {"smartclone.dev/compatible-with": compatible_with}},
            "provisioner": "d",
            "parameters": {"pool": parameter, "csi.storage.k8s.io/provisioner-secret-name": name},
        }));
        Class::of(&class.unwrap())
    }

    #[rstest]
    #[case::same("a", Some(("a", "1", "")), ("a", "1", ""), Ok(()))]
    #[case::like("a", Some(("a", "1", "")), ("b", "1", ""), Ok(()))]
    #[case::other_parameters("a", Some(("a", "1", "")), ("b", "2", ""), Err(Mismatch::Parameters))]
    #[case::declared_by_the_target("a", Some(("a", "1", "")), ("b", "2", "x, a"), Ok(()))]
    #[case::declared_by_the_source("a", Some(("a", "1", "b")), ("b", "2", ""), Ok(()))]
    #[case::object_is_gone("a", None, ("b", "1", ""), Err(Mismatch::NoSourceClass))]
    #[case::object_is_gone_and_declared("a", None, ("b", "2", "a"), Ok(()))]
    #[case::no_class("", None, ("b", "1", ""), Err(Mismatch::NoSourceClass))]
    #[case::no_class_is_not_declared("", None, ("b", "1", ","), Err(Mismatch::NoSourceClass))]
    fn classes(
        #[case] name: &str,
        #[case] source: Option<(&'static str, &'static str, &'static str)>,
        #[case] target: (&'static str, &'static str, &'static str),
        #[case] expected: Result<(), Mismatch>,
    ) {
        let object = source.map(class);
        let source = SourceClass { name, object: object.as_ref() };
        assert_eq!(compatible("d", source, &class(target)), expected);
        assert_eq!(compatible("other", source, &class(target)), Err(Mismatch::Driver));
    }
}
