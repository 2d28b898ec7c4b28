//! What can go wrong when deltas are merged.

use crate::Digest;
use crate::format::{Class, DimgError};

/// An error of merging.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// One of the files is damaged, or does not follow the one before it.
    #[error("merge delta {number}: {source}")]
    File {
        /// Which one, from 0.
        number: usize,
        /// What is wrong with it.
        source: DimgError,
    },
    /// A base image stands where a delta has to.
    #[error("merge delta {number}: it is a base image and follows from nothing")]
    Base {
        /// Which one, from 0.
        number: usize,
    },
    /// There is nothing to merge.
    #[error("merge deltas: none is given")]
    Nothing,
    /// A content would take more stages than a recipe may have.
    #[error(
        "merge deltas: content {content}: {stages} stages exceed the limit of {limit}; a direct delta is smaller"
    )]
    Stages {
        /// The content.
        content: Digest,
        /// Its stages.
        stages: usize,
        /// [`MAX_STAGES`](crate::limits::MAX_STAGES).
        limit: usize,
    },
    /// The merged file cannot be made.
    #[error(transparent)]
    Write(#[from] DimgError),
}

impl MergeError {
    /// What kind of failure it is.
    pub fn class(&self) -> Class {
        match self {
            Self::File { source, .. } | Self::Write(source) => source.class(),
            Self::Base { .. } => Class::Corrupt,
            Self::Nothing => Class::Failed,
            Self::Stages { .. } => Class::NoSpace,
        }
    }

    /// Turns an error about file `number` into one of merging.
    pub(super) fn file(number: usize) -> impl Fn(DimgError) -> Self {
        move |source| Self::File { number, source }
    }
}
