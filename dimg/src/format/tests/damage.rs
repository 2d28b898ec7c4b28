//! Damaged files: every byte, every length, and each check by itself.

use super::super::header::{CHECK_BYTES, Section, assemble, check4, check8};
use super::super::*;
use super::make_all;
use super::sample::{Sample, original};
use crate::content::Bytes;
use crate::engine::compress::Level;
use crate::wire::{Reader, put_u64};

/// All that reading does.
fn read(bytes: &[u8], sample: &Sample) -> Result<(), DimgError> {
    let file = DeltaFile::open(Bytes::from(bytes.to_vec()))?;
    make_all(file.dimg(), sample)?;
    dump(&file, &mut std::io::sink())
}

#[test]
fn a_flipped_byte_is_an_error() {
    let sample = original();
    for whole in [sample.cdimg(), sample.dimg()] {
        read(&whole, &sample).unwrap();
        for at in 0..whole.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                let error = read(&bytes, &sample).expect_err("a byte is another one");
                assert_eq!(error.class(), Class::Corrupt, "byte {at} xor {flip}: {error}");
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

/// A dimg whose magic, version and flags are changed, and then its four lengths (the first counts in a cdimg only).
fn header(start: impl FnOnce(&mut Vec<u8>), lengths: impl FnOnce(&mut Vec<u64>)) -> String {
    let whole = original().dimg();
    let mut reader = Reader::new(&whole, "test");
    reader.take(7, "start").unwrap();
    let mut numbers: Vec<u64> = (0..3).map(|_| reader.u64("length").unwrap()).collect();
    let rest = &whole[reader.offset() + CHECK_BYTES..];
    let meta_bytes = usize::try_from(numbers[0]).unwrap();
    let mut out = whole[..7].to_vec();
    start(&mut out);
    lengths(&mut numbers);
    numbers.iter().for_each(|&length| put_u64(&mut out, length));
    let check = check8(&[&out, &rest[..meta_bytes]].concat());
    out.extend_from_slice(&check.to_le_bytes());
    out.extend_from_slice(rest);
    DeltaFile::open(Bytes::from(out)).map(|_| ()).map_err(|error| error.to_string()).unwrap_err()
}

#[test]
fn the_start_of_a_file_tells_its_size() {
    let sample = original();
    for whole in [sample.dimg(), sample.cdimg()] {
        let start = &whole[..MAX_HEADER_BYTES.min(whole.len())];
        assert_eq!(announced_bytes(start).unwrap(), whole.len() as u64);
    }
    let refused = |start: &[u8]| announced_bytes(start).unwrap_err().to_string();
    assert_eq!(refused(&[0; MAX_HEADER_BYTES]), "read file at offset 0: neither a cdimg nor a dimg");
    assert!(refused(&sample.dimg()[..12]).starts_with("read header at offset "));
}

#[test]
fn each_check_of_the_header_refuses() {
    let start = |at: usize, byte: u8| header(|bytes| bytes[at] = byte, |_| ());
    assert_eq!(start(4, 0), "read file at offset 0: neither a cdimg nor a dimg");
    assert_eq!(start(5, b'\r'), "read header at offset 5: format version 1 is not supported");
    assert_eq!(start(5, 3), "read header at offset 5: format version 3 is not supported");
    assert_eq!(start(6, 2), "read header at offset 6: flags 0x2 are not known");
    let lengths = |at: usize, length: u64| header(|_| (), |lengths| lengths[at] = length);
    assert!(lengths(0, 1 << 40).contains("section META at offset 7 of header: 1099511627776 bytes exceed"));
    assert!(lengths(1, 1 << 40).contains("section TABLES at offset "));
    assert!(lengths(2, u64::MAX).contains("read header at offset 7: the file has "));
    assert!(lengths(2, 1).contains("read header at offset 7: the file has "));
    let flags = start(6, 0);
    assert!(flags.contains("section META") && flags.contains("bytes too many"), "{flags}");
    let sample = original();
    let mut bytes = sample.dimg();
    bytes[20] ^= 1;
    let error = Dimg::open(Bytes::from(bytes)).unwrap_err().to_string();
    assert!(error.ends_with("the checksum of header, manifest, config and META is wrong"), "{error}");
    assert!(Dimg::open(Bytes::from(sample.cdimg())).unwrap_err().to_string().ends_with("not a dimg"));
    assert!(Cdimg::open(Bytes::from(sample.dimg())).unwrap_err().to_string().ends_with("not a cdimg"));
}

/// A file of version 1, as it began: it is told from damage.
#[test]
fn the_version_before_is_refused_by_its_number() {
    for start in [&b"\x89DIMG\r\n\x1a\x01\0\x01\0\x05\0\0\0"[..], b"\x89CDIMG\r\n\x01\0\0\0\x57\0\0\0"] {
        let error = DeltaFile::open(Bytes::from([start, &[7; 300]].concat())).unwrap_err();
        assert!(error.to_string().ends_with("format version 1 is not supported"), "{error}");
    }
}

/// The sample made again with other sections.
fn resealed(change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) -> Vec<u8> {
    let whole = original().dimg();
    let dimg = Dimg::open(Bytes::from(whole.clone())).unwrap();
    let part = |name: &str| {
        let info = dimg.sections().find(|info| info.name == name).unwrap();
        let start = usize::try_from(info.offset).unwrap();
        &whole[start..start + usize::try_from(info.bytes).unwrap()]
    };
    let mut meta = part(Section::Meta.name()).to_vec();
    let mut tables = part(Section::Tables.name())[CHECK_BYTES..].to_vec();
    let data = part(Section::Data.name());
    change(&mut meta, &mut tables);
    tables.splice(..0, check8(&tables).to_le_bytes());
    [&assemble(true, None, &meta, &tables, data.len() as u64), data].concat()
}

fn meta_error(change: impl FnOnce(&mut Vec<u8>)) -> String {
    read(&resealed(|meta, _| change(meta)), &original()).unwrap_err().to_string()
}

fn tables_error(change: impl FnOnce(&mut Vec<u8>)) -> String {
    read(&resealed(|_, tables| change(tables)), &original()).unwrap_err().to_string()
}

#[test]
fn resealing_alone_changes_nothing() {
    read(&resealed(|_, _| ()), &original()).unwrap();
}

#[test]
fn each_check_of_meta_refuses() {
    let meta = original().meta();
    let error = |change: &dyn Fn(&mut Meta)| {
        let mut meta = meta.clone();
        change(&mut meta);
        meta_error(|bytes| *bytes = meta.encode(false))
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
    let id = LayerSource::Made { id: LayerCheck([7; 16]) };
    assert!(error(&|meta| meta.target.layers[1].source = id).contains("id of layer 1 made from it"));
    assert!(meta_error(|bytes| bytes.push(0)).contains("1 bytes too many"));
    assert!(meta_error(|bytes| bytes.truncate(40)).contains("bytes wanted"));
    assert!(meta_error(|bytes| bytes[65] = 0xff).contains("name of the image at offset 64"));
}

#[test]
fn each_check_of_recipes_and_frames_refuses() {
    let sample = original();
    let edit = sample.edit();
    let dimg = Dimg::open(Bytes::from(sample.dimg())).unwrap();
    let (recipes, frames) = (dimg.recipes().unwrap().to_vec(), dimg.frames().unwrap().to_vec());
    let group = recipes.iter().position(|recipe| recipe.stages[0].slot > 0).unwrap();
    let alone = recipes.iter().position(|recipe| recipe.stages[0].codec == StageCodec::Bsdiff).unwrap();
    let two = recipes.iter().position(|recipe| recipe.stages.len() == 2).unwrap();
    let recipe = |change: &dyn Fn(&mut Vec<RecipeRow>)| {
        let mut recipes = recipes.clone();
        change(&mut recipes);
        let recipes = tables::encode_recipes(&recipes, &edit.origins());
        let columns = [&edit.encode().unwrap(), &recipes, &tables::encode_frames(&frames)];
        tables_error(|bytes| *bytes = joint::encode(&columns, Level::Default).unwrap())
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
        (recipe(&|recipes| recipes[0].stages[0].version = 3), "version 3 of plain is not known"),
        (
            recipe(&|recipes| recipes[0].stages[0].version = StageCodec::FILL),
            "the last stage of a recipe is a fill",
        ),
        (
            recipe(&|recipes| recipes[two].stages[0].version = StageCodec::FILL),
            "a stage fills 120 bytes, not 126",
        ),
    ] {
        assert!(
            error.starts_with("read ") && (error.contains(why) || error.contains("slot")),
            "{error}: {why}"
        );
    }
    let frame = |change: &dyn Fn(&mut Vec<FrameRow>)| {
        let mut frames = frames.clone();
        change(&mut frames);
        let recipes = tables::encode_recipes(&recipes, &edit.origins());
        let columns = [&edit.encode().unwrap(), &recipes, &tables::encode_frames(&frames)];
        tables_error(|bytes| *bytes = joint::encode(&columns, Level::Default).unwrap())
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
    assert!(tables_error(|bytes| bytes.push(1)).contains("1 bytes too many"));
    assert!(tables_error(Vec::clear).contains("head of a column"));
}

#[test]
fn each_check_of_a_cdimg_refuses() {
    let sample = original();
    let dimg = Dimg::open(Bytes::from(sample.dimg())).unwrap();
    let write = |manifest: &[u8], config: &[u8]| {
        dimg.with_documents(manifest, config, Level::Default).map_err(|error| error.to_string())
    };
    let (manifest, config) = sample.documents();
    let (head, data) = write(&manifest, &config).unwrap();
    read(&[&head, data].concat(), &sample).unwrap();
    assert!(
        write(b"{}", &config)
            .unwrap_err()
            .contains("write cdimg: the manifest has the digest sha256:44136fa355")
    );
    assert!(write(&manifest, b"{}").unwrap_err().contains("the config has the digest sha256:44136fa355"));
    let named = |manifest: &[u8], config: &[u8]| cdimg::named(manifest, config);
    assert_eq!(named(&manifest, &config).unwrap().diff_ids.len(), 2);
    assert_eq!(named(b"[", &config).unwrap_err().0, "manifest");
    assert_eq!(named(br#"{"config":{"digest":"sha256:00"}}"#, &config).unwrap_err().0, "manifest");
    assert_eq!(named(&manifest, b"no").unwrap_err().0, "manifest");
    let bad = br#"{"rootfs":{"diff_ids":["no"]}}"#;
    let manifest_of =
        |config: &[u8]| format!(r#"{{"config":{{"digest":"{}"}}}}"#, crate::Digest::of(config)).into_bytes();
    assert_eq!(named(&manifest_of(bad), bad).unwrap_err().0, "config");
    // Documents in a file that do not belong together, or to META.
    let file = |manifest: &[u8], config: &[u8], meta: &[u8]| {
        let documents = documents::encode(manifest, config, Level::Default).unwrap();
        let bytes = [&assemble(true, Some(&documents), meta, &[0; 8], 0)[..]].concat();
        Cdimg::open(Bytes::from(bytes)).unwrap_err().to_string()
    };
    let meta = sample.meta().encode(true);
    assert!(file(&manifest, bad, &meta).starts_with("read section DOCUMENTS at offset "));
    assert!(file(&manifest_of(bad), bad, &meta).contains("not a sha256 digest"));
    let none = br#"{"rootfs":{"diff_ids":[]}}"#;
    assert!(file(&manifest_of(none), none, &meta).contains("2, the config has 0"));
    assert!(file(&manifest, &config, &[]).starts_with("read section META at offset "));
    assert_eq!(DeltaFile::open(Bytes::from(b"hello".to_vec())).unwrap_err().offset(), Some(0));
    assert_eq!(check4(b"x"), u32::from_le_bytes(check8(b"x").to_le_bytes()[..4].try_into().unwrap()));
}
