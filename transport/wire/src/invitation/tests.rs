use proptest::prelude::*;

use super::*;

fn key(seed: u8) -> BridgeKey {
    IdentityKey::from_bytes([seed; 32]).public()
}

fn name(text: &str) -> ClientName {
    text.parse().unwrap()
}

fn list(names: &[&str]) -> InvitedList {
    let mut list = InvitedList::default();
    for (seed, text) in (1..).zip(names) {
        list.invite(name(text), key(seed)).unwrap();
    }
    list
}

#[test]
fn an_invitation_is_its_letters_and_hides_them() {
    let invitation = Invitation(IdentityKey::from_bytes([0x5a; 32]));
    let text = "WlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlo";
    assert_eq!(*invitation.expose_text(), text);
    assert_eq!(text.parse(), Ok(invitation.clone()));
    assert_ne!(invitation, Invitation(IdentityKey::from_bytes([0x5b; 32])));
    let shown = format!("{invitation:?}");
    assert!(!shown.contains("Wlpa") && shown.contains("redacted"), "{shown}");
    for (wrong, error) in [
        (&text[1..], InvitationError::Length(42)),
        ("", InvitationError::Length(0)),
        (&text.replacen('W', "+", 1), InvitationError::Letter),
        // The last letter has two bits too many.
        (&format!("{}p", &text[..42]), InvitationError::Damaged),
    ] {
        assert_eq!(wrong.parse::<Invitation>(), Err(error), "{wrong}");
        assert!(!error.to_string().contains("Wlpa"));
    }
}

#[test]
fn names_are_short_and_plain() {
    for good in ["a", "Alice", "alice-2", "3.phone_b", &"x".repeat(MAX_CLIENT_NAME)] {
        assert_eq!(good.parse::<ClientName>().map(|name| name.to_string()).as_deref(), Ok(good));
    }
    for bad in ["", "-a", ".a", "a b", "a\n", "ä", "a/b", "a=b", &"x".repeat(MAX_CLIENT_NAME + 1)] {
        assert_eq!(bad.parse::<ClientName>(), Err(ClientNameError), "{bad}");
    }
    assert!(!format!("{:?}", name("alice")).contains("alice"));
}

#[test]
fn the_file_is_as_documented() {
    let text = format!("qnet invited clients, version 1\nalice {}\nbob {}\n", key(1), key(2));
    assert_eq!(list(&["alice", "bob"]).to_file_text(), text);
    assert_eq!(InvitedList::parse_file_text(&text), Ok(list(&["alice", "bob"])));
    assert_eq!(InvitedList::parse_file_text(&text.replace('\n', "\r\n")), Ok(list(&["alice", "bob"])));
    assert_eq!(InvitedList::parse_file_text("qnet invited clients, version 1\n"), Ok(InvitedList::default()));
}

#[test]
fn a_damaged_list_says_where_and_what_was_expected() {
    let good = list(&["alice", "bob"]).to_file_text();
    let (first, second) = (key(1).to_string(), key(2).to_string());
    for (text, words) in [
        (String::new(), "line 1: expected `qnet invited clients, version 1`"),
        ("alice\n".to_owned(), "not a list of invited clients"),
        (good.replace("version 1", "version 2"), "newer qnet"),
        (good.replace("bob ", "bob"), "line 3: expected a name, a space and a key of 43 letters"),
        (format!("{good}\n"), "line 4: expected a name, a space and a key of 43 letters"),
        (good.replace("bob ", "b/b "), "line 3: expected a name, a space and a key: a client's name has"),
        (good.replace("bob ", "alice "), "line 3: expected a name that is not further up"),
        (good.replace(&second, &first), "line 3: expected a key that is not further up"),
        (
            good.replace(&first, &first[1..]),
            "line 2: expected a name, a space and a key of 43 letters: this one has 42",
        ),
        (
            good.replace(&first, &"A".repeat(43)),
            "line 2: expected a name, a space and a key of 43 letters: these",
        ),
        (good.replace(&first, &"*".repeat(43)), "it holds only letters"),
        (good.trim_end().to_owned(), "the last line has no end"),
    ] {
        let said = InvitedList::parse_file_text(&text).unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
        assert!(!said.contains(&first) && !said.contains(&second), "{said}");
    }
}

#[test]
fn a_change_is_made_or_refused_as_a_whole() {
    let mut list = list(&["alice", "bob"]);
    let before = list.clone();
    assert_eq!(list.invite(name("bob"), key(9)), Err(InvitedError::NameTaken(name("bob"))));
    assert_eq!(list.invite(name("carol"), key(1)), Err(InvitedError::KeyTaken(name("carol"))));
    assert_eq!(list.revoke(&name("carol")), Err(InvitedError::Unknown(name("carol"))));
    assert_eq!(list, before);
    assert_eq!(list.revoke(&name("alice")), Ok(key(1)));
    assert_eq!(list.clients().collect::<Vec<_>>(), [(&name("bob"), &key(2))]);
    assert_eq!(list.revoke(&name("alice")), Err(InvitedError::Unknown(name("alice"))));
}

#[test]
fn a_full_list_fits_its_bound_and_takes_no_more() {
    let mut list = InvitedList::default();
    let key = |number: usize| {
        let mut bytes = [1; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        IdentityKey::from_bytes(bytes).public()
    };
    // Clamping forgets the three lowest bits, so that numbers have to differ above them.
    for number in 0..MAX_INVITED {
        list.invite(name(&format!("{number:0>MAX_CLIENT_NAME$}")), key(number * 8)).unwrap();
    }
    assert_eq!(list.invite(name("more"), key(MAX_INVITED * 8)), Err(InvitedError::Full));
    let text = list.to_file_text();
    assert!(text.len() <= MAX_LIST, "{}", text.len());
    assert_eq!(InvitedList::parse_file_text(&text), Ok(list));
    let more = format!("{text}more {}\n", key(MAX_INVITED * 8));
    assert_eq!(InvitedList::parse_file_text(&more), Err(InvitedError::Full));
}

proptest! {
    #[test]
    fn lists_come_back_from_their_text(names in proptest::collection::btree_set("[a-zA-Z0-9][a-zA-Z0-9._-]{0,31}", 0..20)) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let list = list(&names);
        prop_assert_eq!(InvitedList::parse_file_text(&list.to_file_text()), Ok(list));
    }

    #[test]
    fn mutated_lists_never_panic_and_what_is_read_is_written_again(
        at in 0_usize..200, with in "\\PC{0,3}|\n", drop in 0_usize..4,
    ) {
        let mut text = list(&["alice", "bob", "carol"]).to_file_text();
        let at = at.min(text.len());
        text.replace_range(at..(at + drop).min(text.len()), &with);
        if let Ok(list) = InvitedList::parse_file_text(&text) {
            prop_assert_eq!(InvitedList::parse_file_text(&list.to_file_text()), Ok(list));
        }
    }

    #[test]
    fn invitations_come_back_from_their_letters(bytes: [u8; 32]) {
        let invitation = Invitation(IdentityKey::from_bytes(bytes));
        prop_assert_eq!(invitation.expose_text().parse(), Ok(invitation));
    }
}
