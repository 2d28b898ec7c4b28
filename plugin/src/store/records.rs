//! The database of the records, opened anew after the disk failed it.
//!
//! redb refuses everything after a read or a write that failed, even when that was for want of space and there is space again: what it has in
//! memory may not be what is on the disk. The file itself is whole, as after a crash, so it is closed and opened again, before the
//! next transaction.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, WriteTransaction};

use crate::error::{Error, Result};

/// An open database.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    /// None after it could not be opened again.
    database: RwLock<Option<Database>>,
    failed: AtomicBool,
}

impl Records {
    /// Opens the database at `path`, or makes it.
    ///
    /// # Errors
    /// `InUse` if it is open already, or the file cannot be read or written.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let database = RwLock::new(Some(open(&path)?));
        Ok(Self { path, database, failed: AtomicBool::new(false) })
    }

    /// Begins a transaction that writes, after the one under way.
    ///
    /// # Errors
    /// The database cannot be read, or not be opened again.
    pub(super) fn begin_write(&self, action: &'static str) -> Result<WriteTransaction> {
        self.begin(|database| database.begin_write().map_err(Error::metadata(action)))
    }

    /// Begins a transaction that reads.
    ///
    /// # Errors
    /// As for [`Records::begin_write`].
    pub(super) fn begin_read(&self, action: &'static str) -> Result<ReadTransaction> {
        self.begin(|database| database.begin_read().map_err(Error::metadata(action)))
    }

    /// Passes on what a transaction came to, and remembers that the disk failed it.
    pub(super) fn told<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Metadata { source, .. }) = &result
            && matches!(**source, redb::Error::Io(_) | redb::Error::PreviousIo)
        {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    fn begin<T>(&self, begin: impl Fn(&Database) -> Result<T>) -> Result<T> {
        if !self.failed.load(Ordering::Acquire)
            && let Some(database) = &*self.database.read().unwrap_or_else(PoisonError::into_inner)
        {
            return self.told(begin(database));
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if self.failed.load(Ordering::Acquire) || database.is_none() {
            // Closed first: its lock would keep us out. A transaction that still reads has the lock, too; then the next caller tries again.
            *database = None;
            *database = Some(open(&self.path)?);
            self.failed.store(false, Ordering::Release);
            tracing::info!(path = %self.path.display(), "opened the metadata again after the disk failed");
        }
        match &*database {
            Some(database) => self.told(begin(database)),
            None => Err(Error::Internal { what: "the metadata is closed".into() }),
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
