//! A table that fails on request.

use std::io;

use super::{Dump, Key, MapName, Row, Table, TableError};

/// The error of an operation that fails on request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Failure {
    /// ENOMEM.
    #[default]
    NoMemory,
    /// EPERM.
    NotPermitted,
    /// E2BIG: the map is full.
    NoRoom,
}

impl Failure {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::NoMemory, Self::NotPermitted, Self::NoRoom];

    fn error(self, map: MapName) -> TableError {
        let kind = match self {
            Self::NoMemory => io::ErrorKind::OutOfMemory,
            Self::NotPermitted => io::ErrorKind::PermissionDenied,
            Self::NoRoom => return TableError::Full { map, capacity: 0 },
        };
        TableError::System { map, source: kind.into() }
    }
}

/// Wraps a table and fails a window of its operations, without doing them.
#[derive(Debug)]
pub struct FailingTable<T> {
    /// The table underneath.
    pub inner: T,
    /// The number of writes and removals so far, with those that failed.
    pub operations: usize,
    /// The number of those that failed on request.
    pub failures: usize,
    fails_from: usize,
    fails_until: usize,
    failure: Failure,
}

impl<T> FailingTable<T> {
    /// Fails nothing yet.
    pub fn new(inner: T) -> Self {
        Self {
            inner,
            operations: 0,
            failures: 0,
            fails_from: usize::MAX,
            fails_until: usize::MAX,
            failure: Failure::default(),
        }
    }

    /// Fails the next operation after `skip` of them, and `count` in all, for lack of memory.
    pub fn fail(&mut self, skip: usize, count: usize) {
        self.refuse(skip, count, Failure::default());
    }

    /// The same with another answer.
    pub fn refuse(&mut self, skip: usize, count: usize, failure: Failure) {
        self.fails_from = self.operations.saturating_add(skip);
        self.fails_until = self.fails_from.saturating_add(count);
        self.failure = failure;
    }

    fn counted(&mut self) -> Result<(), TableError> {
        let number = self.operations;
        self.operations += 1;
        if (self.fails_from..self.fails_until).contains(&number) {
            self.failures += 1;
            return Err(self.failure.error(MapName::Meta));
        }
        Ok(())
    }
}

impl<T: Table> Table for FailingTable<T> {
    fn load(&mut self) -> Result<Dump, TableError> {
        self.inner.load()
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        self.counted()?;
        self.inner.put(row)
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        self.counted()?;
        self.inner.remove(key)
    }

    fn flush(&mut self) -> Result<(), TableError> {
        self.inner.flush()
    }
}
