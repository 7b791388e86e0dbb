//! What the driver knows about its volumes and snapshots, kept so that `kill -9` at any instant loses nothing.
//!
//! A volume or snapshot is two files, `ID.img` (the data) and `ID.json` (the record), and exists exactly as long as its record does:
//! the data comes before the record and goes after it, and whatever is found without a record at start-up is swept away.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    marker::PhantomData,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, Result, filesystem::FsType};

/// What the data of a volume is, as far as the driver knows. It never formats anything but `Blank` and `Formatting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// Nobody has written to it.
    Blank,
    /// A file system was being made; until that is done there is nothing to lose.
    Formatting,
    /// The driver made this file system, or it was copied from a volume where the driver had.
    Formatted(FsType),
    /// A block volume: its user's business.
    Raw,
}

/// How a volume is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// As a device.
    Block,
    /// As a mounted file system.
    Mount,
}

/// Where the first content of a volume came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The id of a snapshot.
    Snapshot(String),
    /// The id of a volume.
    Volume(String),
}

/// A size as a caller asks for it, in bytes; 0 = no opinion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// At least this.
    pub required: u64,
    /// At most this.
    pub limit: u64,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRecord {
    /// The volume id, which follows from the name.
    pub id: String,
    /// The name that the caller gave, unique among volumes.
    pub name: String,
    /// Bytes.
    pub capacity: u64,
    /// The size that was asked for at creation, which is not always the one that was given.
    pub requested: Range,
    /// How it is used.
    pub access: Access,
    /// The StorageClass's parameters.
    pub parameters: BTreeMap<String, String>,
    /// What it was copied from.
    pub source: Option<Source>,
    /// What it holds.
    pub content: Content,
    /// When it was made.
    pub created: Timestamp,
}

/// A snapshot: an independent file that shares blocks with its source, which may be deleted before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRecord {
    /// The snapshot id, which follows from the name.
    pub id: String,
    /// The name that the caller gave, unique among snapshots.
    pub name: String,
    /// The id of the volume that it shows.
    pub source_volume: String,
    /// Bytes of the source at that time: what a restored volume needs.
    pub capacity: u64,
    /// Bytes that held data at that time.
    pub referenced: u64,
    /// The VolumeSnapshotClass's parameters.
    pub parameters: BTreeMap<String, String>,
    /// What it holds.
    pub content: Content,
    /// When the data was frozen.
    pub created: Timestamp,
}

/// Something with a name that lives on a [`Shelf`].
pub trait Record: Serialize + DeserializeOwned {
    /// The directory below the data directory.
    const DIRECTORY: &'static str;
    /// How every id begins.
    const PREFIX: &'static str;
    /// The id.
    fn id(&self) -> &str;
}

impl Record for VolumeRecord {
    const DIRECTORY: &'static str = "volumes";
    const PREFIX: &'static str = "vol-";
    fn id(&self) -> &str {
        &self.id
    }
}

impl Record for SnapshotRecord {
    const DIRECTORY: &'static str = "snapshots";
    const PREFIX: &'static str = "snap-";
    fn id(&self) -> &str {
        &self.id
    }
}

/// All records of one kind with their data files.
#[derive(Debug)]
pub struct Shelf<R> {
    directory: PathBuf,
    kind: PhantomData<fn() -> R>,
}

impl<R: Record> Shelf<R> {
    /// The shelf below a data directory, made if need be.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let shelf = Self::at(data_dir);
        fs::create_dir_all(&shelf.directory).map_err(Error::io("create", &shelf.directory))?;
        Ok(shelf)
    }

    /// The shelf below a data directory, as it is.
    pub fn at(data_dir: &Path) -> Self {
        Self { directory: data_dir.join(R::DIRECTORY), kind: PhantomData }
    }

    /// The id of what has this name: the same at every retry, and short however long the name is.
    pub fn id_of(name: &str) -> String {
        let hash = blake3::hash(name.as_bytes()).to_hex();
        format!("{}{}", R::PREFIX, hash.as_str().get(..32).unwrap_or_default())
    }

    /// Whether an id can be one of this shelf's. Ids come from outside and end up in paths.
    pub fn is_id(id: &str) -> bool {
        id.strip_prefix(R::PREFIX).is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    /// The record with this id, if there is one.
    pub fn get(&self, id: &str) -> Result<Option<R>> {
        if !Self::is_id(id) {
            return Ok(None);
        }
        read_json(&self.record(id))
    }

    /// All records in the order of their ids.
    pub fn list(&self) -> Result<Vec<R>> {
        let files = self.files()?;
        let records = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        // One that is removed meanwhile is simply no longer there.
        records.filter_map(|path| self.get(stem(path)).transpose()).collect()
    }

    /// Writes a record; when this returns, it survives a power cut.
    pub fn put(&self, record: &R) -> Result<()> {
        write_durably(&self.record(record.id()), record)
    }

    /// Removes a record; when this returns, it stays removed. Its data is [discarded](Self::discard) next.
    pub fn forget(&self, id: &str) -> Result<()> {
        remove_if_there(&self.record(id))?;
        sync_directory(&self.directory)
    }

    /// Removes the data of what has no record.
    pub fn discard(&self, id: &str) -> Result<()> {
        remove_if_there(&self.image(id))
    }

    /// The data file of an id of this shelf.
    pub fn image(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.img"))
    }

    /// Removes what an interrupted call left half made: temporary files, and data without a record. Returns what it removed.
    pub fn sweep(&self) -> Result<Vec<PathBuf>> {
        let stray = self.stray()?;
        for path in &stray {
            remove_if_there(path)?;
        }
        Ok(stray)
    }

    /// Files that belong to no record.
    pub fn stray(&self) -> Result<Vec<PathBuf>> {
        let mut files = self.files()?;
        files.retain(|path| {
            let id = stem(path);
            let belongs = match path.extension().and_then(OsStr::to_str) {
                Some("json") => Self::is_id(id),
                Some("img") => Self::is_id(id) && self.record(id).exists(),
                _ => false,
            };
            !belongs
        });
        Ok(files)
    }

    fn record(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// All files in their order; none in a directory that does not exist.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("list", &self.directory))?,
        };
        let mut files: Vec<_> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map_err(Error::io("list", &self.directory))?;
        files.sort();
        Ok(files)
    }
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(OsStr::to_str).unwrap_or_default()
}

/// Reads a JSON file; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::Damaged { path: path.into(), source })
}

/// Replaces a JSON file as a whole: a reader sees the old one or the new one, and after a power cut it is one of the two.
pub(crate) fn write_durably<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    replace(path, value, File::sync_all)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Replaces a JSON file as a whole for other processes that read it, without a word about power cuts.
pub(crate) fn write_atomically<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    replace(path, value, |_| Ok(()))
}

fn replace<T: Serialize>(path: &Path, value: &T, settle: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|source| Error::Damaged { path: path.into(), source })?;
    let temporary = path.with_added_extension("tmp");
    let mut file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
    file.write_all(&text).and_then(|()| settle(&file)).map_err(Error::io("write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::io("replace", path))
}

fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(Error::io("sync", directory))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn shelf() -> (TempDir, Shelf<SnapshotRecord>) {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(directory.path()).unwrap();
        (directory, shelf)
    }

    fn record(name: &str) -> SnapshotRecord {
        SnapshotRecord {
            id: Shelf::<SnapshotRecord>::id_of(name),
            name: name.into(),
            source_volume: Shelf::<VolumeRecord>::id_of("disk"),
            capacity: 1 << 20,
            referenced: 0,
            parameters: BTreeMap::new(),
            content: Content::Formatted(FsType::Xfs),
            created: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_record_is_there_until_it_is_forgotten() {
        let (directory, shelf) = shelf();
        let (one, other) = (record("one"), record("other"));
        shelf.put(&one).unwrap();
        shelf.put(&other).unwrap();
        let mut expected = vec![one.clone(), other.clone()];
        expected.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(Shelf::<SnapshotRecord>::at(directory.path()).list().unwrap(), expected);
        shelf.forget(&one.id).unwrap();
        shelf.forget(&one.id).unwrap();
        assert_eq!(shelf.get(&one.id).unwrap(), None);
        assert_eq!(shelf.get(&other.id).unwrap(), Some(other));
    }

    #[test]
    fn a_sweep_takes_only_what_has_no_record() {
        let (_directory, shelf) = shelf();
        let (kept, lost) = (record("kept"), record("lost"));
        shelf.put(&kept).unwrap();
        let stray = [shelf.image(&lost.id), shelf.record(&lost.id).with_added_extension("tmp")];
        for path in stray.iter().chain([&shelf.image(&kept.id)]) {
            File::create(path).unwrap();
        }
        assert_eq!(shelf.sweep().unwrap(), stray);
        assert!(shelf.sweep().unwrap().is_empty());
        assert!(shelf.image(&kept.id).exists());
        assert_eq!(shelf.list().unwrap(), [kept]);
    }

    #[test]
    fn an_id_cannot_lead_out_of_the_directory() {
        let (directory, shelf) = shelf();
        fs::write(directory.path().join("secret.json"), "{}").unwrap();
        for id in ["../secret", "snap-../secret", "snap-", "", &Shelf::<VolumeRecord>::id_of("disk")] {
            assert_eq!(shelf.get(id).unwrap(), None, "{id}");
        }
    }

    #[test]
    fn a_name_of_any_length_has_a_short_id_of_its_own() {
        let (one, other) = ("a".repeat(500), "a".repeat(501));
        let [one, other] = [one, other].map(|name| Shelf::<VolumeRecord>::id_of(&name));
        assert!(Shelf::<VolumeRecord>::is_id(&one) && one.len() < 64);
        assert_ne!(one, other);
    }

    #[test]
    fn a_damaged_record_is_said_to_be_damaged() {
        let (_directory, shelf) = shelf();
        let id = Shelf::<SnapshotRecord>::id_of("one");
        fs::write(shelf.record(&id), "{").unwrap();
        let error = shelf.list().unwrap_err().to_string();
        assert!(error.contains(&id), "{error}");
    }

    #[test]
    fn a_data_directory_that_was_never_used_is_empty_and_stays_so() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Shelf::<VolumeRecord>::at(directory.path()).list().unwrap().is_empty());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
