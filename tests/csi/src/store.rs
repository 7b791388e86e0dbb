//! What the driver knows about its volumes and snapshots, kept so that `kill -9` at any instant loses nothing.
//!
//! A volume or snapshot is two files, `ID.img` (the data) and `ID.json` (the record), and exists exactly as long as its record does:
//! the data comes before the record and goes after it, and whatever is found without a record at start-up is swept away.

use std::{
    collections::BTreeMap,
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

    pub(crate) fn at(data_dir: &Path) -> Self {
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
        let mut ids = self.stems("json")?;
        ids.sort();
        // One that is removed meanwhile is simply no longer there.
        ids.iter().filter_map(|id| self.get(id).transpose()).collect()
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
        let mut stray = self.stray()?;
        stray.sort();
        for path in &stray {
            remove_if_there(path)?;
        }
        Ok(stray)
    }

    /// Files that belong to no record.
    pub fn stray(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.directory).map_err(Error::io("list", &self.directory))?;
        let mut stray = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("list", &self.directory))?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let belongs = match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => Self::is_id(id),
                Some("img") => Self::is_id(id) && self.record(id).exists(),
                _ => false,
            };
            if !belongs {
                stray.push(path);
            }
        }
        Ok(stray)
    }

    fn record(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn stems(&self, extension: &str) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.directory).map_err(Error::io("list", &self.directory))?;
        let mut stems = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("list", &self.directory))?.path();
            if path.extension().is_some_and(|found| found == extension) {
                stems.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
            }
        }
        Ok(stems)
    }
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
