//! The database of the records, opened anew after the disk failed it.
//!
//! redb refuses everything after a read or a write that failed, even when that was for want of space and there is space again: what it has in
//! memory may not be what is on the disk. The file itself is whole, as after a crash, so it is closed and opened again, before the
//! next transaction and after the end of those that are open: they have the file's lock. Failures are counted by the opening they belong to.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, WriteTransaction};

use crate::error::{Error, Result};

/// An open database.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    /// Held while a transaction is open.
    opened: RwLock<Opened>,
    /// The last opening that failed; 0 for none.
    failed: AtomicU64,
}

#[derive(Debug)]
struct Opened {
    /// Counted from 1.
    number: u64,
    /// None after it could not be opened again.
    database: Option<Database>,
}

impl Records {
    /// Opens the database at `path`, or makes it.
    ///
    /// # Errors
    /// `InUse` if it is open already, or the file cannot be read or written.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let opened = RwLock::new(Opened { number: 1, database: Some(open(&path)?) });
        Ok(Self { path, opened, failed: AtomicU64::new(0) })
    }

    /// Runs `change` in one durable transaction, after the one under way; an error leaves everything as it was. `change` must not begin another.
    ///
    /// # Errors
    /// Those of `change`; the database cannot be read or written, or not be opened again.
    pub(super) fn write<T>(
        &self,
        action: &'static str,
        change: impl FnOnce(&WriteTransaction) -> Result<T>,
    ) -> Result<T> {
        self.within(|database| {
            let tx = database.begin_write().map_err(Error::metadata(action))?;
            match change(&tx) {
                Ok(value) => tx.commit().map_err(Error::metadata(action)).map(|()| value),
                Err(e) => tx.abort().map_err(Error::metadata(action)).and(Err(e)),
            }
        })
    }

    /// Gives `look` everything as it is at one moment. `look` must not begin another transaction.
    ///
    /// # Errors
    /// As for [`Records::write`].
    pub(super) fn read<T>(
        &self,
        action: &'static str,
        look: impl FnOnce(&ReadTransaction) -> Result<T>,
    ) -> Result<T> {
        self.within(|database| look(&database.begin_read().map_err(Error::metadata(action))?))
    }

    /// Does `work` with the database, and remembers that the disk failed it.
    fn within<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let opened = self.opened()?;
        let Some(database) = &opened.database else {
            return Err(Error::Internal { what: "the metadata is closed".into() });
        };
        let result = work(database);
        if let Err(Error::Metadata { source, .. }) = &result
            && matches!(**source, redb::Error::Io(_) | redb::Error::PreviousIo)
        {
            self.failed.fetch_max(opened.number, Ordering::AcqRel);
        }
        result
    }

    /// The database, opened again if need be.
    fn opened(&self) -> Result<RwLockReadGuard<'_, Opened>> {
        let is_well = |opened: &Opened| {
            opened.database.is_some() && self.failed.load(Ordering::Acquire) < opened.number
        };
        loop {
            let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            if is_well(&opened) {
                return Ok(opened);
            }
            drop(opened);
            let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
            if !is_well(&opened) {
                // Closed first: its lock would keep us out.
                opened.database = None;
                opened.database = Some(open(&self.path)?);
                opened.number += 1;
                tracing::info!(path = %self.path.display(), "opened the metadata again after the disk failed");
            }
        }
    }
}

fn open(path: &Path) -> Result<Database> {
    Database::create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => {
            Error::InUse { what: "root", path: path.parent().unwrap_or(path).to_owned() }
        }
        error => Error::metadata("open")(error),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn io_error() -> Error {
        Error::metadata("test")(redb::Error::Io(std::io::ErrorKind::StorageFull.into()))
    }

    /// A failure of what began before the database was opened again does not open it once more, and what is open then is waited for.
    #[test]
    fn it_is_opened_once_for_each_that_failed() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("metadata.redb")).unwrap();
        let number = || records.opened.read().unwrap().number;
        let fails = || records.read("test", |_| Err::<(), _>(io_error())).unwrap_err();
        fails();
        assert_eq!(number(), 1);
        records.write("test", |_| Ok(())).unwrap();
        assert_eq!(number(), 2);
        // One is open while another fails.
        let (began, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let (records, began) = (&records, &began);
            let late = scope.spawn(move || {
                records.read("test", |_| {
                    began.send(()).unwrap();
                    may_go.recv().unwrap();
                    Err::<(), _>(io_error())
                })
            });
            has_begun.recv().unwrap();
            fails();
            let next = scope.spawn(|| records.write("test", |_| Ok(())));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!next.is_finished());
            go.send(()).unwrap();
            late.join().unwrap().unwrap_err();
            next.join().unwrap().unwrap();
        });
        assert_eq!(number(), 3);
        records.read("test", |_| Ok(())).unwrap();
        assert_eq!(number(), 3);
        // Other errors are nobody's fault but the caller's.
        let other = |_: &ReadTransaction| Err::<(), _>(Error::NotFound { what: "it".into() });
        records.read("test", other).unwrap_err();
        records.read("test", |_| Ok(())).unwrap();
        assert_eq!(number(), 3);
    }
}
