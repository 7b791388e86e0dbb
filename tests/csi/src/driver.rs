//! What all services share, and the way every call takes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use tonic::{Code, Response, Status};
use tracing::{debug, info, warn};

use crate::{
    Error, Result,
    behaviour::{Behaviour, Effect, FaultCounter},
    calls::{Ledger, Rpc},
    image,
    locks::Locks,
    server::{Ability, Args},
    store::{Shelf, SnapshotRecord, VolumeRecord},
};

/// How often a call that hangs looks whether it still should.
const HANG_POLL: Duration = Duration::from_millis(50);

/// A driver with everything it keeps.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) args: Args,
    /// Absolute, as the kernel names the images below it.
    pub(crate) data_dir: PathBuf,
    pub(crate) volumes: Shelf<VolumeRecord>,
    pub(crate) snapshots: Shelf<SnapshotRecord>,
    pub(crate) locks: Locks,
    ledger: Ledger,
    faults: FaultCounter,
    /// Locked: the sweep at the start of a second driver would take what this one is making.
    _alone: File,
}

/// A driver as the gRPC services hold it.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) Arc<Driver>);

impl Driver {
    /// Takes a data directory into use, and sweeps away what was half made when its last driver died.
    pub(crate) fn open(args: Args) -> Result<Self> {
        fs::create_dir_all(&args.data_dir).map_err(Error::io("create", &args.data_dir))?;
        let data_dir = args.data_dir.canonicalize().map_err(Error::io("look at", &args.data_dir))?;
        let alone = File::open(&data_dir).map_err(Error::io("open", &data_dir))?;
        rustix::fs::flock(&alone, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| Error::io("lock", &data_dir)(errno.into()))?;
        image::check_sharing(&data_dir)?;
        let volumes = Shelf::open(&data_dir)?;
        let snapshots = Shelf::open(&data_dir)?;
        for path in [volumes.sweep()?, snapshots.sweep()?].concat() {
            warn!(path = %path.display(), "removed what an interrupted call left");
        }
        Ok(Self {
            ledger: Ledger::open(args.calls_file.clone())?,
            faults: FaultCounter::open(data_dir.join("faults.json"))?,
            locks: Locks::default(),
            volumes,
            snapshots,
            _alone: alone,
            data_dir,
            args,
        })
    }

    /// Whether the driver was started with this ability.
    pub(crate) fn can(&self, ability: Ability) -> bool {
        !self.args.without.contains(&ability)
    }

    /// How the driver behaves towards what belongs to classes with these parameters, the later ones winning.
    pub(crate) fn behaviour(&self, id: &str, classes: &[&BTreeMap<String, String>]) -> Result<Behaviour> {
        let mut behaviour = Behaviour::default();
        for parameters in classes {
            behaviour = behaviour.overlaid(Behaviour::from_parameters(parameters)?);
        }
        let control = self.args.control_file.as_deref().map(Behaviour::read).transpose()?.unwrap_or_default();
        Ok(behaviour.counted_for(id).overlaid(control))
    }

    /// Begins a call that changes something: it fails here if it is one of those that are to fail.
    pub(crate) fn begin(&self, rpc: Rpc, id: &str, classes: &[&BTreeMap<String, String>]) -> Result<Call> {
        let behaviour = self.behaviour(id, classes)?;
        match self.faults.strike(rpc, &behaviour.faults)? {
            Some(Effect::Fail(code)) => Err(Error::refused(code.into(), "a fault that was asked for")),
            crash => Ok(Call { rpc, crash, behaviour }),
        }
    }

    /// Waits for as long as snapshot deletion is to hang.
    pub(crate) fn hang(&self, snapshot: &SnapshotRecord) -> Result<()> {
        while self.behaviour(&snapshot.id, &[&snapshot.parameters])?.snapshot_deletion_hangs.unwrap_or_default() {
            thread::sleep(HANG_POLL);
        }
        Ok(())
    }

    /// The volume with this id.
    pub(crate) fn volume(&self, id: &str) -> Result<VolumeRecord> {
        required(id, "volume_id")?;
        self.volumes.get(id)?.ok_or_else(|| Error::refused(Code::NotFound, format!("no volume {id}")))
    }

    /// The loop device of a volume, if it has one: if it is staged.
    pub(crate) fn device(&self, volume: &str) -> Result<Option<image::LoopDevice>> {
        image::attached(&self.volumes.image(volume))
    }

    fn counted<T>(&self, rpc: Rpc, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let began = Timestamp::now();
        self.ledger.started(rpc)?;
        let result = work(self);
        let took = Timestamp::now().duration_since(began);
        let code = result.as_ref().map_or_else(Error::code, |_| Code::Ok);
        match &result {
            Ok(_) => debug!(%rpc, ?took, "done"),
            Err(error) => info!(%rpc, ?took, %error, code = code_name(code), "failed"),
        }
        self.ledger.ended(rpc, code_name(code))?;
        result
    }
}

impl Service {
    /// Runs a call away from the async threads and to its end, even if the caller hangs up: a call that stops half-way would leave
    /// its tools running beside those of the next attempt.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        rpc: Rpc,
        work: impl FnOnce(&Driver) -> Result<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let driver = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || driver.counted(rpc, work))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map(Response::new)
            .map_err(Status::from)
    }
}

/// A call that changes something.
#[derive(Debug)]
pub(crate) struct Call {
    rpc: Rpc,
    crash: Option<Effect>,
    pub(crate) behaviour: Behaviour,
}

impl Call {
    /// Runs the one step that makes the call count, and dies before or after it if that was asked for.
    pub(crate) fn commit<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        self.die_at(Effect::CrashBeforeCommit);
        let result = step()?;
        self.die_at(Effect::CrashAfterCommit);
        Ok(result)
    }

    fn die_at(&self, moment: Effect) {
        if self.crash == Some(moment) {
            warn!(rpc = %self.rpc, ?moment, "dying, as asked");
            std::process::abort();
        }
    }
}

/// Waits, as a slow backend would.
pub(crate) fn dawdle(milliseconds: Option<u64>) {
    if let Some(milliseconds) = milliseconds {
        thread::sleep(Duration::from_millis(milliseconds));
    }
}

/// A field that the specification requires.
pub(crate) fn required<'a>(value: &'a str, field: &str) -> Result<&'a str> {
    if value.is_empty() { Err(missing(field)) } else { Ok(value) }
}

/// What a call without a required field gets.
pub(crate) fn missing(field: &str) -> Error {
    Error::refused(Code::InvalidArgument, format!("{field} is missing"))
}

/// A size as the messages have it.
pub(crate) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A code as the specification writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Aborted => "ABORTED",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Unimplemented => "UNIMPLEMENTED",
        _ => "INTERNAL",
    }
}
