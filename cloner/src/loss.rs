//! The parts of a source that a target may lack: owners, special files.

use std::path::Path;

use crate::{error::quoted, rights};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    Owner,
    Permissions,
    SetId,
    Acl,
    /// Capabilities and labels.
    Security,
    Attribute,
    /// The target has an attribute that the source does not have.
    ForeignAttribute,
    Time,
    Special,
}

impl Loss {
    /// The loss of an extended attribute.
    pub fn of_attribute(name: &[u8]) -> Self {
        if name.starts_with(b"system.posix_acl_") {
            Self::Acl
        } else if name.starts_with(b"security.") {
            Self::Security
        } else {
            Self::Attribute
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Owner => "owners",
            Self::Permissions => "permissions",
            Self::SetId => "set-id bits",
            Self::Acl => "ACLs",
            Self::Security => "security attributes",
            Self::Attribute => "extended attributes",
            Self::ForeignAttribute => "the absence of extended attributes",
            Self::Time => "times of modification",
            Self::Special => "special",
        }
    }

    /// The message about one file, when it happens.
    pub fn message(self, path: &Path) -> String {
        match self {
            Self::Special => format!("{}: a special file can't be made", quoted(path)),
            _ => format!("{}: {} can't be kept", quoted(path), self.what()),
        }
    }

    /// The message about all files together, with the cure.
    pub fn summed_up(self, count: u64, first: &Path) -> String {
        let files = if count == 1 { "file" } else { "files" };
        let were = if count == 1 { "was" } else { "were" };
        let first = quoted(first);
        let first = &first[..first.floor_char_boundary(LONGEST_PATH)];
        let mut text = match self {
            Self::Special => format!("{count} special {files} {were} not copied (first: {first})"),
            _ => format!("{} of {count} {files} were not kept (first: {first})", self.what()),
        };
        // All other losses are caused by the target's file system.
        let roots = matches!(self, Self::Owner | Self::Permissions | Self::SetId | Self::Security | Self::Special);
        if let Some(advice) = rights::advice().filter(|_| roots) {
            text = format!("{text}; {advice}");
        }
        text
    }
}

/// The maximum length of a path in a summary, so that all summaries fit into one message.
const LONGEST_PATH: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_and_names_the_first() {
        let one = Loss::Owner.summed_up(1, Path::new("etc/shadow"));
        assert!(one.starts_with("owners of 1 file were not kept (first: \"etc/shadow\")"), "{one}");
        let many = Loss::Special.summed_up(2, Path::new(&"d".repeat(5000)));
        assert!(many.starts_with("2 special files were not copied (first: \"ddd"), "{many}");
        assert!(many.len() < 400, "{many}");
    }
}
