//! What a pax extension header says about its member, as Go's `archive/tar` merges it.

use super::block::Fields;
use super::pax::{self, Record};

/// Values that take the place of a header's. Of records with the same key the last counts, and an empty value takes
/// back those before it.
#[derive(Debug, Default)]
pub struct Overrides<'t> {
    path: &'t [u8],
    link: &'t [u8],
    uname: &'t [u8],
    gname: &'t [u8],
    uid: Option<i64>,
    gid: Option<i64>,
    size: Option<i64>,
    /// Seconds rounded down, and nanoseconds.
    pub mtime: Option<(i64, u32)>,
    /// Records that make the member a sparse one.
    pub sparse: SparseRecords<'t>,
}

/// GNU's records about sparse members.
#[derive(Debug, Default)]
pub struct SparseRecords<'t> {
    pub major: &'t [u8],
    pub minor: &'t [u8],
    pub name: &'t [u8],
    pub size: &'t [u8],
    pub real_size: &'t [u8],
    pub blocks: &'t [u8],
    /// Offsets and lengths between commas; also those of version 0.0, which has a record for each.
    pub map: Vec<u8>,
}

impl<'t> Overrides<'t> {
    /// Reads the records of one header.
    ///
    /// # Errors
    /// A number, a time or the order of a sparse map's records is wrong; the text says which.
    pub fn read(records: &[Record<'t>]) -> Result<Self, &'static str> {
        let mut all = Self::default();
        let mut texts = Texts::default();
        let mut pairs: Vec<&[u8]> = Vec::new();
        for &Record { key, value } in records {
            match key {
                b"path" => all.path = value,
                b"linkpath" => all.link = value,
                b"uname" => all.uname = value,
                b"gname" => all.gname = value,
                b"uid" => texts.uid = value,
                b"gid" => texts.gid = value,
                b"size" => texts.size = value,
                b"mtime" => texts.mtime = value,
                b"atime" => texts.atime = value,
                b"ctime" => texts.ctime = value,
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    let first_of_pair = pairs.len().is_multiple_of(2);
                    if first_of_pair != (key == b"GNU.sparse.offset") || value.contains(&b',') {
                        return Err("sparse map of the pax records is malformed");
                    }
                    pairs.push(value);
                }
                _ => all.sparse.set(key, value),
            }
        }
        if !pairs.is_empty() {
            all.sparse.map = pairs.join(&b',');
        }
        all.uid = integer(texts.uid, "pax record uid is not a number")?;
        all.gid = integer(texts.gid, "pax record gid is not a number")?;
        all.size = integer(texts.size, "pax record size is not a number")?;
        all.mtime = time(texts.mtime, "pax record mtime is not a time")?;
        time(texts.atime, "pax record atime is not a time")?;
        time(texts.ctime, "pax record ctime is not a time")?;
        Ok(all)
    }

    /// Puts the values in the place of the header's; the time is the caller's.
    pub fn apply(&self, fields: &mut Fields) {
        let texts = [
            (&mut fields.name, self.path),
            (&mut fields.link, self.link),
            (&mut fields.uname, self.uname),
            (&mut fields.gname, self.gname),
        ];
        for (field, value) in texts {
            if !value.is_empty() {
                *field = value.to_vec();
            }
        }
        fields.uid = self.uid.unwrap_or(fields.uid);
        fields.gid = self.gid.unwrap_or(fields.gid);
        fields.size = self.size.unwrap_or(fields.size);
    }
}

impl<'t> SparseRecords<'t> {
    fn set(&mut self, key: &[u8], value: &'t [u8]) {
        match key {
            b"GNU.sparse.major" => self.major = value,
            b"GNU.sparse.minor" => self.minor = value,
            b"GNU.sparse.name" => self.name = value,
            b"GNU.sparse.size" => self.size = value,
            b"GNU.sparse.realsize" => self.real_size = value,
            b"GNU.sparse.numblocks" => self.blocks = value,
            b"GNU.sparse.map" => self.map = value.to_vec(),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Texts<'t> {
    uid: &'t [u8],
    gid: &'t [u8],
    size: &'t [u8],
    mtime: &'t [u8],
    atime: &'t [u8],
    ctime: &'t [u8],
}

fn integer(text: &[u8], why: &'static str) -> Result<Option<i64>, &'static str> {
    if text.is_empty() { Ok(None) } else { pax::integer(text).map(Some).ok_or(why) }
}

fn time(text: &[u8], why: &'static str) -> Result<Option<(i64, u32)>, &'static str> {
    if text.is_empty() { Ok(None) } else { pax::time(text).map(Some).ok_or(why) }
}
