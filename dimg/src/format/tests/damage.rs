//! Damaged files: every byte, every length, and each check by itself.

use super::super::header::{HEAD_BYTES, Header, Section, check8, check16};
use super::super::*;
use super::make_all;
use super::sample::{Sample, original};
use crate::content::Bytes;
use crate::engine::compress::Codec;

/// All that reading does.
fn read(bytes: &[u8], sample: &Sample) -> Result<(), DimgError> {
    let file = DeltaFile::open(Bytes::from(bytes.to_vec()))?;
    make_all(file.dimg(), sample)?;
    dump(&file, &mut std::io::sink())
}

#[test]
fn a_flipped_byte_is_an_error() {
    let sample = original();
    let whole = sample.cdimg();
    read(&whole, &sample).unwrap();
    let dimg_start = whole.len() - sample.dimg().len();
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            match read(&bytes, &sample) {
                Err(error) => assert_eq!(error.class(), Class::Corrupt, "byte {at} xor {flip}: {error}"),
                // A compressed document that still decodes to the bytes that have its digest.
                Ok(()) => assert!((48..dimg_start).contains(&at), "byte {at} xor {flip}"),
            }
        }
    }
}

#[test]
fn a_file_cut_short_is_an_error() {
    let sample = original();
    for whole in [sample.cdimg(), sample.dimg()] {
        for length in 0..whole.len() {
            let error = DeltaFile::open(Bytes::from(whole[..length].to_vec())).expect_err("cut");
            assert!(error.offset().is_some_and(|offset| offset <= length as u64), "{length}: {error}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(DeltaFile::open(Bytes::from(longer)).is_err());
    }
}

/// The sample with some bytes of its header changed and the checksum made right again.
fn header(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = original().dimg();
    change(&mut bytes);
    let check = check8(&[&bytes[..24], &bytes[32..HEAD_BYTES]].concat());
    bytes[24..32].copy_from_slice(&check.to_le_bytes());
    Dimg::open(Bytes::from(bytes)).unwrap_err().to_string()
}

#[test]
fn each_check_of_the_header_refuses() {
    let row = |section: Section| 32 + 40 * section as usize;
    let (meta, index, data) = (row(Section::Meta), row(Section::Index), row(Section::Data));
    assert_eq!(header(|bytes| bytes[7] = 0), "read header at offset 0: not a dimg");
    assert_eq!(header(|bytes| bytes[8] = 2), "read header at offset 8: format version 2 is not supported");
    assert_eq!(header(|bytes| bytes[10] = 2), "read header at offset 10: flags 0x2 are not known");
    assert_eq!(header(|bytes| bytes[12] = 4), "read header at offset 12: 4 sections, not 5");
    assert!(header(|bytes| bytes.push(0)).starts_with("read header at offset 16: the dimg has "));
    assert_eq!(header(|bytes| bytes[meta] = 2), "read header at offset 32: section META: kind 2");
    assert_eq!(
        header(|bytes| bytes[meta + 2] = 9),
        "read section META at offset 34: codec 9 is not supported"
    );
    assert_eq!(
        header(|bytes| bytes[meta + 3] = 1),
        "read header at offset 35: section META: padding is not zero"
    );
    let huge = header(|bytes| bytes[meta + 7] = 0xff);
    assert!(
        huge.starts_with("read header at offset 36: section META: ")
            && huge.ends_with("the limit of 1073741824")
    );
    let moved = header(|bytes| bytes[index + 8] ^= 1);
    assert!(moved.starts_with("read header at offset 80: section INDEX: it starts at "), "{moved}");
    let long = header(|bytes| bytes[index + 23] = 1);
    assert!(long.starts_with("read header at offset 88: section INDEX: 72057594"), "{long}");
    assert_eq!(
        header(|bytes| bytes[data + 4] = 1),
        "read header at offset 194: section DATA: a codec, raw size or checksum is given"
    );
    let left = header(|bytes| bytes[data + 16] -= 1);
    assert_eq!(left, "read header at offset 16: 1 bytes follow the last section");
    let check = header(|bytes| bytes[meta + 24] ^= 1);
    assert!(check.starts_with("read section META at offset 232: its checksum is wrong"), "{check}");
    let flags = header(|bytes| bytes[10] = 0);
    assert!(flags.contains("section META") && flags.contains("bytes too many"), "{flags}");
    let mut bytes = original().dimg();
    bytes[24] ^= 1;
    let error = Dimg::open(Bytes::from(bytes)).unwrap_err();
    assert_eq!(error.to_string(), "read header at offset 24: the checksum of the header is wrong");
}

/// A dimg with one section's bytes changed, and all sizes and checksums made right again.
fn resealed(section: Section, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let whole = original().dimg();
    let mut header = Header::parse(&whole, 0).unwrap();
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for (section, row) in Section::ALL.into_iter().zip(&mut header.rows) {
        let start = usize::try_from(row.offset).unwrap();
        let stored = &whole[start..start + usize::try_from(row.stored_bytes).unwrap()];
        parts.push(if section == Section::Data {
            stored.to_vec()
        } else {
            let raw = blob::unpack(row.codec, stored, row.raw_bytes).unwrap();
            row.codec = Codec::Raw;
            raw
        });
    }
    change(&mut parts[section as usize]);
    let mut offset = HEAD_BYTES as u64;
    for (row, part) in header.rows.iter_mut().zip(&parts) {
        (row.offset, row.stored_bytes) = (offset, part.len() as u64);
        offset += row.stored_bytes;
    }
    for (row, part) in header.rows.iter_mut().zip(&parts).take(4) {
        (row.raw_bytes, row.check) = (part.len() as u64, check16(part));
    }
    header.bytes = offset;
    [header.encode(), parts.concat()].concat()
}

fn section_error(section: Section, change: impl FnOnce(&mut Vec<u8>)) -> String {
    read(&resealed(section, change), &original()).unwrap_err().to_string()
}

#[test]
fn resealing_alone_changes_nothing() {
    read(&resealed(Section::Meta, |_| ()), &original()).unwrap();
}

#[test]
fn each_check_of_meta_refuses() {
    let meta = original().meta();
    let error = |change: &dyn Fn(&mut Meta)| {
        let mut meta = meta.clone();
        change(&mut meta);
        section_error(Section::Meta, |bytes| *bytes = meta.encode())
    };
    assert!(
        error(&|meta| meta.target.layers[0].source = LayerSource::Parent(1))
            .contains("layer 1 of the parent is not there or another")
    );
    assert!(
        error(&|meta| meta.target.layers[0].source = LayerSource::Parent(9))
            .contains("layer 9 of the parent is not there or another")
    );
    assert!(
        error(&|meta| meta.target.layers[0].source = LayerSource::Parent(5000))
            .contains("5001 exceeds the limit of 1024")
    );
    assert!(error(&|meta| meta.target.layers[0].entries = 1 << 40).contains("exceeds the limit"));
    assert!(error(&|meta| meta.target.layers[0].entries = 1 << 22).contains("more than 4194304 in all"));
    assert!(error(&|meta| meta.target.layers[0].entries = 1).contains("layer 0 has 3 entries, META names 1"));
    assert!(error(&|meta| meta.target.layers[1].entries = 3).contains("they make 10 entries, META names 3"));
    assert!(error(&|meta| meta.target.contents = 3).contains("the layers have 9 contents, META names 3"));
    assert!(error(&|meta| meta.target.name = "n".repeat(5000)).contains("5000 exceeds the limit of 4096"));
    let id = LayerSource::Made { id: crate::Digest::of(b"other") };
    assert!(error(&|meta| meta.target.layers[1].source = id).contains("id of layer 1 made from it"));
    assert!(section_error(Section::Meta, |bytes| bytes.push(0)).contains("1 bytes too many"));
    assert!(section_error(Section::Meta, |bytes| bytes.truncate(40)).contains("bytes wanted"));
    assert!(
        section_error(Section::Meta, |bytes| bytes[65] = 0xff).contains("name of the image at offset 64")
    );
}

#[test]
fn each_check_of_recipes_and_frames_refuses() {
    let sample = original();
    let edit = sample.edit();
    let dimg = Dimg::open(Bytes::from(sample.dimg())).unwrap();
    let (recipes, frames) = (dimg.recipes().unwrap().to_vec(), dimg.frames().unwrap().to_vec());
    let group = recipes.iter().position(|recipe| recipe.stages[0].slot > 0).unwrap();
    let alone = recipes.iter().position(|recipe| recipe.stages[0].codec == StageCodec::Bsdiff).unwrap();
    let recipe = |change: &dyn Fn(&mut Vec<RecipeRow>)| {
        let mut recipes = recipes.clone();
        change(&mut recipes);
        let bytes = tables::encode_recipes(&recipes, &edit.origins()).to_raw();
        section_error(Section::Recipes, |section| *section = bytes)
    };
    let nowhere = crate::index::edit::Place { layer: 0, entry: 77 };
    for (error, why) in [
        (recipe(&|recipes| recipes[0].stages.clear()), "a recipe has none"),
        (recipe(&|recipes| recipes[0].stages = vec![recipes[0].stages[0]; 17]), "17 exceeds the limit of 16"),
        (recipe(&|recipes| recipes[0].base = None), "plain as stage 0 of a recipe without a base"),
        (recipe(&|recipes| recipes[0].base = Some(nowhere)), "its base is not there"),
        (recipe(&|recipes| recipes[0].stages[0].frame = 99), "frame 99 is not there"),
        (recipe(&|recipes| recipes[alone].stages[0].frame = recipes[0].stages[0].frame), "its stage bsdiff"),
        (recipe(&|recipes| recipes[alone].stages[0].slot = 1), "has no slot 1"),
        (recipe(&|recipes| recipes[group].stages[0].slot = 500), "asked for"),
        (recipe(&|recipes| recipes.truncate(1)), "number of stages"),
    ] {
        assert!(
            error.starts_with("read ") && (error.contains(why) || error.contains("slot")),
            "{error}: {why}"
        );
    }
    let frame = |change: &dyn Fn(&mut Vec<FrameRow>)| {
        let mut frames = frames.clone();
        change(&mut frames);
        let bytes = tables::encode_frames(&frames).to_raw();
        section_error(Section::Frames, |section| *section = bytes)
    };
    for (error, why) in [
        (frame(&|frames| frames.truncate(1)), "belong to none"),
        (frame(&|frames| frames[0].bytes += 1), "it ends after the section DATA"),
        (frame(&|frames| frames[0].bytes = u64::MAX), "it ends after the section DATA"),
        (frame(&|frames| frames[0].check ^= 1), "the checksum of frame 0 is wrong"),
        (frame(&|frames| frames.push(FrameRow { bytes: 0, ..frames[0] })), "has no use"),
    ] {
        assert!(error.contains(why), "{error}: {why}");
    }
    let columns = |section: Section, at: usize, byte: u8| section_error(section, |bytes| bytes[at] = byte);
    // One column after the other: number, codec, raw and stored bytes, then the stored bytes.
    assert!(columns(Section::Recipes, 0, 200).contains("number of columns"));
    assert!(columns(Section::Frames, 1, 9).contains("column number"));
    assert!(section_error(Section::Index, |bytes| bytes.push(1)).contains("1 bytes too many"));
}

/// The sample's cdimg with its header changed and the checksum made right again.
fn cdimg(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = original().cdimg();
    change(&mut bytes);
    let check = check8(&bytes[..40]);
    bytes[40..48].copy_from_slice(&check.to_le_bytes());
    Cdimg::open(Bytes::from(bytes)).unwrap_err().to_string()
}

#[test]
fn each_check_of_a_cdimg_refuses() {
    assert_eq!(cdimg(|bytes| bytes[0] = 0), "read cdimg header at offset 0: not a cdimg");
    assert_eq!(
        cdimg(|bytes| bytes[8] = 9),
        "read cdimg header at offset 8: format version 9 is not supported"
    );
    assert_eq!(cdimg(|bytes| bytes[10] = 1), "read cdimg header at offset 10: flags 0x1 are not known");
    assert_eq!(cdimg(|bytes| bytes[30] = 1), "read cdimg header at offset 30: padding is not zero");
    assert_eq!(cdimg(|bytes| bytes[28] = 7), "read cdimg header at offset 28: codec 7 is not supported");
    assert_eq!(cdimg(|bytes| bytes[29] = 7), "read cdimg header at offset 29: codec 7 is not supported");
    assert!(cdimg(|bytes| bytes[15] = 1).contains("at offset 12: a manifest of "));
    assert!(cdimg(|bytes| bytes[27] = 1).contains("at offset 24: a config of "));
    assert!(cdimg(|bytes| bytes[32] ^= 1).contains("at offset 32: the dimg has "));
    assert!(cdimg(|bytes| bytes[12] ^= 1).starts_with("read manifest at offset 48: "));
    let sample = original();
    let write = |manifest: &[u8], config: &[u8]| {
        let dimg = sample.dimg();
        let head = cdimg_head(manifest, config, dimg.len() as u64, Default::default()).unwrap();
        DeltaFile::open(Bytes::from([head, dimg].concat())).map(|_| ()).map_err(|error| error.to_string())
    };
    let (manifest, config) = sample.documents();
    write(&manifest, &config).unwrap();
    assert!(
        write(b"{}", &config).unwrap_err().contains("read manifest at offset 48: digest sha256:44136fa355")
    );
    assert!(write(&manifest, b"{}").unwrap_err().contains("digest sha256:44136fa355"));
    let check =
        |manifest: &[u8], config: &[u8]| cdimg::check_documents(manifest, config, &sample.meta().target);
    check(&manifest, &config).unwrap();
    assert_eq!(check(b"[", &config).unwrap_err().0, "manifest");
    assert_eq!(check(br#"{"config":{"digest":"sha256:00"}}"#, &config).unwrap_err().0, "manifest");
    assert_eq!(check(&manifest, br#"{"rootfs":{"diff_ids":[]}}"#).unwrap_err().0, "config");
    assert_eq!(check(&manifest, b"no").unwrap_err().0, "config");
    assert_eq!(DeltaFile::open(Bytes::from(b"hello".to_vec())).unwrap_err().offset(), Some(0));
}
