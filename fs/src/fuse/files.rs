//! Objects that are open to be read.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use dimg::index::Content;

use crate::lazy::Contents;
use crate::store::StoreError;

/// More than this many are not kept open: the ones opened first go.
const MOST: usize = 256;

#[derive(Debug, Default)]
struct Open {
    by_row: HashMap<u32, Arc<File>>,
    order: VecDeque<u32>,
}

/// Keeps files open between the reads of them, a bounded number.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<Open>);

impl Files {
    /// The object of a row's content, made when it is not there.
    pub(super) fn get(
        &self,
        row: u32,
        content: &Content,
        contents: &Contents,
    ) -> Result<Arc<File>, StoreError> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = lock().by_row.get(&row) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(contents.ensure(content)?);
        let mut open = lock();
        if open.by_row.insert(row, Arc::clone(&file)).is_none() {
            open.order.push_back(row);
        }
        if open.order.len() > MOST
            && let Some(oldest) = open.order.pop_front()
        {
            open.by_row.remove(&oldest);
        }
        Ok(file)
    }
}
