//! Tars made up at random, and tars with wrong bytes: each comes back bit for bit or is refused.

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::check::{SMALL, round_trip};

#[derive(Debug, Clone)]
struct Made {
    gnu: bool,
    name: Vec<u8>,
    link: Vec<u8>,
    kind: u8,
    mode: u32,
    uid: u64,
    mtime: u64,
    data: Vec<u8>,
    records: Vec<(String, Vec<u8>)>,
    /// Header byte to change, and to what; the checksum is made anew.
    mutation: Option<(usize, u8)>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        "[a-z]{1,12}".prop_map(String::into_bytes),
        prop::collection::vec(1..=255u8, 1..60),
        Just(b".".to_vec()),
        Just("größe".as_bytes().to_vec()),
    ];
    (prop::collection::vec(part, 1..9), any::<bool>()).prop_map(|(parts, slash)| {
        let mut name = parts.join(&b'/');
        name.extend(slash.then_some(b'/'));
        name
    })
}

fn records() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let key = prop_oneof![
        Just("path".to_owned()),
        Just("linkpath".to_owned()),
        Just("mtime".to_owned()),
        Just("uid".to_owned()),
        Just("uname".to_owned()),
        Just("SCHILY.xattr.user.a".to_owned()),
        Just("SCHILY.xattr.security.capability".to_owned()),
        Just("comment".to_owned()),
        "[a-zA-Z.]{1,20}",
    ];
    let value = prop_oneof![
        Just(Vec::new()),
        "-?[0-9]{1,11}".prop_map(String::into_bytes),
        "-?[0-9]{1,11}[.][0-9]{0,11}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..40),
        name(),
    ];
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec((key, value), 1..6)]
}

prop_compose! {
    fn made()(
        gnu: bool, name in name(), link in name(), kind in prop::sample::select(b"0123456\x00gSVZ7".to_vec()),
        mode in 0..0o10_0000u32, uid in prop_oneof![0..3u64, 0..u64::from(u32::MAX)],
        mtime in prop_oneof![0..2_000_000_000u64, 0..u64::from(u32::MAX) * 4],
        data in prop::collection::vec(any::<u8>(), 0..1200),
        records in records(),
        mutation in prop_oneof![2 => Just(None), 1 => (0..512usize, any::<u8>()).prop_map(Some)],
    ) -> Made {
        Made { gnu, name, link, kind, mode, uid, mtime, data, records, mutation }
    }
}

fn append(builder: &mut Builder<Vec<u8>>, made: &Made) {
    let mut header = if made.gnu { Header::new_gnu() } else { Header::new_ustar() };
    header.set_mode(made.mode);
    header.set_uid(made.uid);
    header.set_gid(made.uid / 2);
    header.set_mtime(made.mtime);
    header.set_entry_type(EntryType::new(made.kind));
    let data = if matches!(made.kind, b'0' | 0 | b'7' | b'V' | b'Z' | b'S') { &made.data[..] } else { &[] };
    header.set_size(data.len() as u64);
    if let (b'S', Some(gnu)) = (made.kind, header.as_gnu_mut()) {
        // One run, after a hole as long as the owner's number.
        let hole = made.uid % 5000;
        let octal = |value: u64| format!("{value:011o}\0").into_bytes();
        gnu.sparse[0].offset.copy_from_slice(&octal(hole));
        gnu.sparse[0].numbytes.copy_from_slice(&octal(data.len() as u64));
        gnu.realsize.copy_from_slice(&octal(hole + data.len() as u64));
    }
    let records = made.records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
    if !made.records.is_empty() {
        builder.append_pax_extensions(records).expect("memory takes it");
    }
    let old = header.as_old_mut();
    let name = &made.name[..made.name.len().min(100)];
    old.name[..name.len()].copy_from_slice(name);
    let link = &made.link[..made.link.len().min(100)];
    old.linkname[..link.len()].copy_from_slice(link);
    if let Some((at, byte)) = made.mutation {
        header.as_mut_bytes()[at] = byte;
    }
    header.set_cksum();
    builder.append(&header, data).expect("memory takes it");
}

fn tar_of(members: &[Made]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for made in members {
        append(&mut builder, made);
    }
    builder.into_inner().expect("memory takes it")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn made_up_tars_come_back(members in prop::collection::vec(made(), 0..8)) {
        let _ = round_trip(&tar_of(&members), &SMALL);
    }

    #[test]
    fn long_names_come_back(names in prop::collection::vec((name(), name()), 1..5), gnu: bool) {
        let mut builder = Builder::new(Vec::new());
        for (name, link) in &names {
            let mut header = if gnu { Header::new_gnu() } else { Header::new_ustar() };
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            let (name, link) = (String::from_utf8_lossy(name), String::from_utf8_lossy(link));
            // Names that the crate refuses are none of this test's.
            let _ = builder.append_link(&mut header, &*name, &*link);
        }
        round_trip(&builder.into_inner().unwrap(), &SMALL).unwrap();
    }
}

/// A tar with a bit of everything, 10 to 20 blocks.
fn small() -> Vec<u8> {
    let plain = Made {
        gnu: false,
        name: b"dir/file".to_vec(),
        link: Vec::new(),
        kind: b'0',
        mode: 0o644,
        uid: 1000,
        mtime: 1_700_000_000,
        data: b"some bytes".to_vec(),
        records: vec![
            ("mtime".to_owned(), b"1.5".to_vec()),
            ("SCHILY.xattr.user.a".to_owned(), b"b".to_vec()),
        ],
        mutation: None,
    };
    let directory = Made { kind: b'5', name: b"dir/".to_vec(), records: Vec::new(), ..plain.clone() };
    let link = Made { gnu: true, kind: b'2', link: b"target".to_vec(), ..directory.clone() };
    tar_of(&[directory, plain, link])
}

#[test]
fn every_cut_is_refused_or_comes_back() {
    let tar = small();
    for end in 0..tar.len() {
        let _ = round_trip(&tar[..end], &SMALL);
    }
}

#[test]
fn every_wrong_bit_is_refused_or_comes_back() {
    let mut tar = small();
    for at in 0..tar.len() {
        for bit in 0..8 {
            tar[at] ^= 1 << bit;
            let _ = round_trip(&tar, &SMALL);
            tar[at] ^= 1 << bit;
        }
    }
}
