//! One content made for an object store.

use std::io::Write;
use std::sync::Arc;

use dimg::content::{Bytes, ContentSource, open_exact};
use dimg::format::{Dimg, DimgError, Recipe};
use dimg::index::Content;

use crate::store::{Job, ObjectStore, Output};

/// From this size on a content is worth several threads.
const LARGE_BYTES: u64 = 4 << 20;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Sources = [Arc<dyn ContentSource>];

/// Makes a content from its recipe; the base is in the store or one of the sources.
pub(super) struct Make<'a> {
    store: &'a ObjectStore,
    dimg: &'a Dimg,
    recipe: &'a Recipe,
    sources: &'a Sources,
    made: [Content; 1],
    threads: usize,
}

impl<'a> Make<'a> {
    pub(super) fn new(
        store: &'a ObjectStore,
        dimg: &'a Dimg,
        recipe: &'a Recipe,
        sources: &'a Sources,
    ) -> Self {
        Self { store, dimg, recipe, sources, made: [recipe.content], threads: 1 }
    }

    /// With so many threads, where the content is a large one.
    pub(super) fn on(self, threads: usize) -> Self {
        let large = self.recipe.content.size >= LARGE_BYTES;
        Self { threads: if large { threads } else { 1 }, ..self }
    }

    fn base(&self, base: &Content) -> Result<Bytes, Failure> {
        if let Some(bytes) = self.store.open(base)? {
            return Ok(bytes);
        }
        let content = self.recipe.content.digest;
        Ok(open(self.sources, base)
            .map_err(|error| DimgError::Make { content, reason: format!("read its base: {error}") })?)
    }
}

impl Job for Make<'_> {
    fn contents(&self) -> &[Content] {
        &self.made
    }

    fn make(&self, output: &mut Output<'_>) -> Result<(), Failure> {
        let content = self.recipe.content;
        if !output.begin(&content)? {
            return Ok(());
        }
        let base = self.recipe.base.as_ref().map(|base| self.base(base)).transpose()?;
        let scratch = || tempfile::tempfile_in(self.store.root());
        // The output verifies what it gets.
        match self.dimg.make_unverified(self.threads, self.recipe, base.as_deref(), output, &scratch) {
            // The output knows better what it could not write.
            Err(DimgError::Output(error)) => Err(error.into()),
            made => Ok(made?),
        }
    }
}

/// Copies a content from a source.
pub(super) struct Copy<'a> {
    sources: &'a Sources,
    made: [Content; 1],
}

impl<'a> Copy<'a> {
    pub(super) fn new(content: Content, sources: &'a Sources) -> Self {
        Self { sources, made: [content] }
    }
}

impl Job for Copy<'_> {
    fn contents(&self) -> &[Content] {
        &self.made
    }

    fn make(&self, output: &mut Output<'_>) -> Result<(), Failure> {
        let [content] = &self.made;
        if output.begin(content)? {
            output.write_all(&open(self.sources, content)?)?;
        }
        Ok(())
    }
}

/// The bytes of `content` from the first source that has it.
fn open(sources: &Sources, content: &Content) -> std::io::Result<Bytes> {
    for source in sources {
        if let Ok(bytes) = open_exact(source, content) {
            return Ok(bytes);
        }
    }
    let message = format!("content {} of {} bytes is in no source", content.digest, content.size);
    Err(std::io::Error::new(std::io::ErrorKind::NotFound, message))
}
