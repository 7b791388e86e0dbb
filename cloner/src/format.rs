//! Detection of disk image formats other than raw, by their first bytes.

/// The length of the beginning of an image that [`not_raw`] needs, in bytes.
pub const HEAD: usize = 512;

const MAGICS: [(usize, &[u8], &str); 7] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "QED"),
    (0, b"KDMV", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
];

/// The format of an image that begins with `head`, unless it is raw.
pub fn not_raw(head: &[u8]) -> Option<&'static str> {
    let found = |(at, magic, _): &&(usize, &[u8], &str)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    MAGICS.iter().find(found).map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::qcow2(b"QFI\xfb\0\0\0\x03", Some("qcow2"))]
    #[case::vmdk(b"KDMV\x01", Some("VMDK"))]
    #[case::vhdx(b"vhdxfile", Some("VHDX"))]
    #[case::a_boot_sector(b"\xeb\x63\x90", None)]
    #[case::magic_elsewhere(b"\0QFI\xfb", None)]
    #[case::nothing(b"", None)]
    fn formats(#[case] head: &[u8], #[case] expected: Option<&str>) {
        assert_eq!(not_raw(head), expected);
    }

    #[test]
    fn a_magic_that_is_not_at_the_beginning() {
        let mut head = [0; HEAD];
        head[0x40..0x44].copy_from_slice(b"\x7f\x10\xda\xbe");
        assert_eq!(not_raw(&head), Some("VDI"));
    }
}
