//! Property tests of edits, and sizes that must hold.

use super::testing::{image, series};
use super::*;
use crate::engine::compress::Level;
use proptest::prelude::*;

fn claims(edit: &Edit) -> Vec<LayerClaim> {
    let claim = |layer: &LayerEdit| match layer {
        LayerEdit::Same(same) => LayerClaim::Same(*same),
        LayerEdit::Edited(edited) => LayerClaim::Entries(edited.entries() as u64),
    };
    edit.layers.iter().map(claim).collect()
}

fn round(edit: &Edit) -> Edit {
    let columns = edit.encode().unwrap();
    let decoded = Edit::decode(&columns.to_raw(), &claims(edit)).unwrap();
    let packed = columns.to_packed(Level::Fast).unwrap();
    assert_eq!(Edit::decode(&packed, &claims(edit)).unwrap(), decoded);
    decoded
}

proptest! {
    #[test]
    fn edits_come_back_and_make_the_target(images in series(2)) {
        let (parent, target) = (&images[0], &images[1]);
        let edit = Edit::between(parent, target).unwrap();
        prop_assert_eq!(&round(&edit), &edit);
        prop_assert_eq!(&edit.apply(parent).unwrap(), target);
        let known: Vec<_> = parent.iter().flat_map(|layer| layer.contents()).collect();
        prop_assert!(edit.new_contents.iter().all(|content| !known.contains(content)));
        prop_assert_eq!(edit.origins().len(), edit.new_contents.len());
    }

    #[test]
    fn nothing_changed_is_nothing_to_say(image in image()) {
        let edit = Edit::between(&image, &image).unwrap();
        prop_assert!(edit.layers.iter().all(|layer| matches!(layer, LayerEdit::Same(_))));
        prop_assert_eq!(edit.encode().unwrap().to_raw(), vec![0]);
    }

    #[test]
    fn a_layer_id_is_that_of_the_layer_alone(image in image()) {
        for layer in image {
            let whole = Edit::whole(std::slice::from_ref(&layer)).unwrap();
            prop_assert_eq!(layer_id(&layer), Digest::of(&whole.encode().unwrap().to_raw()));
        }
    }

    #[test]
    fn composed_makes_what_one_after_the_other_does(images in series(4)) {
        let edit = |from: usize| Edit::between(&images[from], &images[from + 1]).unwrap();
        let (one, two, three) = (edit(0), edit(1), edit(2));
        let composed = Edit::compose(&one, &two, &[]).unwrap();
        prop_assert_eq!(&round(&composed.edit), &composed.edit);
        prop_assert_eq!(&composed.edit.apply(&images[0]).unwrap(), &images[2]);
        let left = Edit::compose(&composed.edit, &three, &[]).unwrap().edit;
        let right = Edit::compose(&one, &Edit::compose(&two, &three, &[]).unwrap().edit, &[]).unwrap().edit;
        prop_assert_eq!(&left.apply(&images[0]).unwrap(), &images[3]);
        prop_assert_eq!(left, right, "composition is associative");
    }

    #[test]
    fn contents_are_followed_to_where_they_are_from(images in series(3)) {
        let edit = |from: usize| Edit::between(&images[from], &images[from + 1]).unwrap();
        let (one, two) = (edit(0), edit(1));
        let composed = Edit::compose(&one, &two, &[]).unwrap();
        prop_assert_eq!(composed.named.len(), composed.edit.new_contents.len());
        for (named, content) in composed.named.iter().zip(&composed.edit.new_contents) {
            let found = match *named {
                Named::First(number) => one.new_contents[number as usize],
                Named::Second(number) => two.new_contents[number as usize],
            };
            prop_assert_eq!(&found, content);
        }
        let lookup = one.lookup().unwrap();
        for (layer, index) in (0u32..).zip(&images[1]) {
            for (entry, found) in (0u32..).zip(&index.entries) {
                let content = match lookup.content(Place { layer, entry }).unwrap() {
                    ContentRef::None => None,
                    ContentRef::New(number) => Some(one.new_contents[number as usize]),
                    ContentRef::Parent(place) => content_at(&images[0], place),
                };
                prop_assert_eq!(content, found.content);
            }
        }
    }

    #[test]
    fn layers_known_to_be_the_parents_stay_so(images in series(2)) {
        let (there, back) =
            (Edit::between(&images[0], &images[1]).unwrap(), Edit::between(&images[1], &images[0]).unwrap());
        let kept: Vec<_> = (0u32..).take(images[0].len()).map(Some).collect();
        let composed = Edit::compose(&there, &back, &kept).unwrap();
        prop_assert!(composed.named.is_empty());
        prop_assert_eq!(&composed.edit.apply(&images[0]).unwrap(), &images[0]);
    }

    #[test]
    fn edits_that_do_not_follow_are_an_error_or_harmless(images in series(4)) {
        let (one, other) =
            (Edit::between(&images[0], &images[1]).unwrap(), Edit::between(&images[2], &images[3]).unwrap());
        if let Ok(composed) = Edit::compose(&one, &other, &[]) {
            round(&composed.edit);
            let _ = composed.edit.apply(&images[0]);
        }
    }

    #[test]
    fn another_parent_is_an_error_or_harmless(images in series(3)) {
        let edit = Edit::between(&images[0], &images[1]).unwrap();
        let _ = edit.apply(&images[2]);
        let _ = edit.apply(&[]);
    }

    #[test]
    fn damage_is_an_error_or_harmless(images in series(2), at: prop::sample::Index, byte: u8) {
        let edit = Edit::between(&images[0], &images[1]).unwrap();
        let mut bytes = edit.encode().unwrap().to_raw();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(edit) = Edit::decode(&bytes, &claims(&edit)) {
            let _ = edit.apply(&images[0]);
            prop_assert!(edit.encode().is_ok());
        }
        for length in 0..bytes.len() {
            let _ = Edit::decode(&bytes[..length], &claims(&edit));
        }
    }
}
