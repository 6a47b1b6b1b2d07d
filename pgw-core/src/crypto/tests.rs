//! The tests of the envelope and of its keys.

use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::env::Env;

fn id(text: &str) -> KeyName {
    text.parse().unwrap()
}

fn key(byte: u8) -> Zeroizing<[u8; KEY_BYTES]> {
    Zeroizing::new([byte; KEY_BYTES])
}

fn place() -> Context {
    Context::new("endpoint-secret").with("acme").with("live").with("we_1").with("1")
}

/// Any sequence of bytes that could stand in an envelope, tried as one.
fn open_text(ring: &KeyRing, text: &[u8]) -> Result<(), CryptoError> {
    let text = std::str::from_utf8(text).map_err(|_| CryptoError::Malformed)?;
    ring.open(&place(), &Sealed::parse(text)?).map(drop)
}

fn hex<const N: usize>(text: &str) -> [u8; N] {
    assert_eq!(text.len(), 2 * N);
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}

/// Test case 16 of "The Galois/Counter Mode of Operation (GCM)", McGrew and Viega, submitted to NIST.
#[test]
fn the_cipher_is_aes_256_gcm() {
    let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
    let nonce = hex("cafebabefacedbaddecaf888");
    let context = hex::<20>("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plain = hex::<60>(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let mut buffer = plain;
    let tag = encrypt(&key, &nonce, &context, &mut buffer);
    let body = hex::<60>(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
    );
    assert_eq!((buffer, tag), (body, hex("76fc6ece0f4e1768cddf8853bb2d551b")));
    decrypt(&key, &nonce, &context, &mut buffer, &tag).unwrap();
    assert_eq!(buffer, plain);
}

/// Computed with OpenSSL, by the layout that the documentation states: what is stored today opens tomorrow.
#[test]
fn the_envelope_keeps_its_layout() {
    let ring = KeyRing::parse("k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    let sealed =
        Sealed::parse("v1.k1.ZGVmZ2hpamtsbW5vP3OtAxq2NaxoCDyFjFVDDvGbXBbYMt2d8ASDd0JF").unwrap();
    assert_eq!(ring.open_secret(&place(), &sealed).unwrap().expose(), "whsec_c2VjcmV0");
}

#[test]
fn every_change_of_an_envelope_is_an_error() {
    let ring = KeyRing::builder(id("k1"), key(1)).with_decrypt_only(id("k2"), key(2));
    let ring = ring.build().unwrap();
    let text = ring.seal(&Env::system(), &place(), b"12345").unwrap().as_str().as_bytes().to_vec();
    assert_eq!(open_text(&ring, &text), Ok(()));
    let wrong = |text: &[u8]| {
        let shown = String::from_utf8_lossy(text);
        match open_text(&ring, text) {
            Err(CryptoError::Malformed | CryptoError::Forged | CryptoError::UnknownKey(_)) => {}
            other => panic!("{shown}: {other:?}"),
        }
    };
    for at in 0..text.len() {
        wrong(&text[..at]);
        wrong(&text[at + 1..]);
        wrong(&[&text[..at], &text[at + 1..]].concat());
        for byte in 0..=u8::MAX {
            wrong(&[&text[..at], &[byte], &text[at..]].concat());
            if byte != text[at] {
                wrong(&[&text[..at], &[byte], &text[at + 1..]].concat());
            }
        }
    }
    for byte in 0..=u8::MAX {
        wrong(&[&text[..], &[byte]].concat());
    }
    let other_key = [b"v1.k2.", &text[6..]].concat();
    assert_eq!(open_text(&ring, &other_key), Err(CryptoError::Forged));
}

#[test]
fn any_text_is_safe_to_read() {
    let ring = KeyRing::builder(id("k1"), key(1)).build().unwrap();
    bolero::check!().for_each(|bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let _ = KeyRing::parse(&text);
        let _ = open_text(&ring, bytes);
        let _ = open_text(&ring, format!("v1.k1.{}", URL_SAFE_NO_PAD.encode(bytes)).as_bytes());
    });
}

#[test]
fn the_structure_is_checked_first() {
    let payload = |len| URL_SAFE_NO_PAD.encode(vec![0; len]);
    assert!(Sealed::parse(&format!("v1.k1.{}", payload(28))).is_ok());
    for bad in [
        String::new(),
        "v1".to_owned(),
        "v1.k1".to_owned(),
        format!("v1.k1.{}", payload(27)),
        format!("v1.k1.{}=", payload(28)),
        format!("v1.k1.x.{}", payload(28)),
        format!("v1.K1.{}", payload(28)),
        format!("v1..{}", payload(28)),
        format!("v1.{}.{}", "k".repeat(33), payload(28)),
        format!("v2.k1.{}", payload(28)),
        format!("v1.k1.{}", payload(Sealed::LEN_MAX)),
    ] {
        assert_eq!(Sealed::parse(&bad), Err(CryptoError::Malformed), "{bad}");
    }
}

#[test]
fn a_secret_opens_only_in_its_place() {
    let env = Env::system();
    let ring = KeyRing::ephemeral(&env);
    let sealed = ring.seal(&env, &place(), b"secret").unwrap();
    assert_eq!(ring.open(&place(), &sealed).unwrap().as_slice(), b"secret");
    let kind = Context::new("endpoint-secret");
    for other in [
        Context::new("another-secret").with("acme").with("live").with("we_1").with("1"),
        kind.clone().with("other").with("live").with("we_1").with("1"),
        kind.clone().with("acme").with("test").with("we_1").with("1"),
        kind.clone().with("acme").with("live").with("we_2").with("1"),
        kind.clone().with("acme").with("live").with("we_1").with("2"),
        kind.clone().with("acme").with("live").with("we_1"),
        kind.clone().with("acmelive").with("").with("we_1").with("1"),
        kind.clone().with("acme").with("live").with("we_").with("11"),
    ] {
        assert_eq!(ring.open(&other, &sealed), Err(CryptoError::Forged));
    }
    let stranger = KeyRing::ephemeral(&env);
    assert_eq!(stranger.open(&place(), &sealed), Err(CryptoError::Forged));
}

#[test]
fn keys_age_from_active_to_destroyed() {
    let env = Env::system();
    let ring = KeyRing::builder(id("k1"), key(1)).build().unwrap();
    let old = ring.seal(&env, &place(), b"secret").unwrap();
    assert!(ring.is_current(&old));

    let ring = KeyRing::builder(id("k2"), key(2)).with_decrypt_only(id("k1"), key(1));
    let ring = ring.build().unwrap();
    assert!(!ring.is_current(&old));
    let plain = ring.open(&place(), &old).unwrap();
    let new = ring.seal(&env, &place(), &plain).unwrap();
    assert_eq!((new.key(), ring.is_current(&new)), (&id("k2"), true));

    let ring = KeyRing::builder(id("k2"), key(2)).with_destroyed(id("k1")).build().unwrap();
    assert_eq!(ring.open(&place(), &old), Err(CryptoError::DestroyedKey(id("k1"))));
    assert_eq!(ring.open(&place(), &new).unwrap(), plain);

    let ring = KeyRing::builder(id("k3"), key(3)).build().unwrap();
    assert_eq!(ring.open(&place(), &new), Err(CryptoError::UnknownKey(id("k2"))));
}

#[test]
fn no_two_envelopes_are_alike() {
    let env = Env::system();
    let ring = KeyRing::ephemeral(&env);
    let seal = |_| ring.seal(&env, &place(), b"secret").unwrap().as_str().to_owned();
    let nonce = |text: String| split(&text).unwrap().1.nonce;
    let nonces: std::collections::HashSet<_> = (0..1_000).map(seal).map(nonce).collect();
    assert_eq!(nonces.len(), 1_000);
}

#[test]
fn the_longest_secret_fits_under_the_longest_id() {
    let env = Env::system();
    let ring = KeyRing::builder(id(&"k".repeat(KeyName::LEN_MAX)), key(1)).build().unwrap();
    let plain = vec![0xff; PLAINTEXT_BYTES_MAX];
    let sealed = ring.seal(&env, &place(), &plain).unwrap();
    assert_eq!(Sealed::parse(sealed.as_str()), Ok(sealed.clone()));
    assert_eq!(ring.open(&place(), &sealed).unwrap().as_slice(), plain);
    assert_eq!(ring.open_secret(&place(), &sealed), Err(CryptoError::NotText));
    let longer = vec![0; PLAINTEXT_BYTES_MAX + 1];
    assert_eq!(ring.seal(&env, &place(), &longer), Err(CryptoError::TooLong));
}

#[test]
fn a_ring_is_read_from_text_and_nothing_of_it_is_shown() {
    let (k1, k2) = (STANDARD.encode([1; KEY_BYTES]), STANDARD.encode([2; KEY_BYTES]));
    let ring = KeyRing::parse(&format!("k2:{k2}, k1:{k1},k0:destroyed\n")).unwrap();
    assert_eq!((ring.active(), format!("{ring:?}")), (&id("k2"), "KeyRing(k2, k1, k0)".into()));
    let sealed = KeyRing::builder(id("k1"), key(1)).build().unwrap();
    let sealed = sealed.seal(&Env::system(), &place(), b"secret").unwrap();
    assert_eq!(ring.open(&place(), &sealed).unwrap().as_slice(), b"secret");

    let entry = KeyRingError::Entry { position: 2 };
    for (text, error) in [
        (String::new(), KeyRingError::Active),
        ("k1:destroyed".to_owned(), KeyRingError::Active),
        (k1.clone(), KeyRingError::Active),
        (format!("K1:{k1}"), KeyRingError::Active),
        (format!("k1:{}", &k1[..40]), KeyRingError::Active),
        (format!("k1:{k1},"), entry.clone()),
        (format!("k1:{k1},{k2}"), entry.clone()),
        (format!("k1:{k1},k 2:{k2}"), entry.clone()),
        (format!("k1:{k1},k2:{}", STANDARD.encode([2; 33])), entry.clone()),
        (format!("k1:{k1},k2:Destroyed"), entry),
        (format!("k1:{k1},k1:{k2}"), KeyRingError::DuplicateId(id("k1"))),
        (format!("k1:{k1},k1:destroyed"), KeyRingError::DuplicateId(id("k1"))),
        (format!("k1:{k1},k2:{k1}"), KeyRingError::DuplicateKey(id("k1"), id("k2"))),
    ] {
        let found = KeyRing::parse(&text).unwrap_err();
        assert_eq!(found, error, "{text}");
        let shown = format!("{found} {found:?}");
        assert!(!shown.contains(&k1[..8]) && !shown.contains(&k2[..8]), "{shown}");
    }
    let builder = KeyRing::builder(id("k1"), key(1)).with_destroyed(id("k0"));
    assert_eq!(format!("{builder:?}"), "KeyRingBuilder(k1, k0)");
    assert_eq!(format!("{sealed:?} {:?}", place()), "Sealed(k1) Context(…)");
}

proptest! {
    #[test]
    fn what_is_sealed_opens(
        plain in prop::collection::vec(any::<u8>(), 0..300),
        kind_parts in prop::collection::vec(".{0,20}", 0..4),
        other_parts in prop::collection::vec(".{0,20}", 0..4),
    ) {
        let env = Env::system();
        let ring = KeyRing::ephemeral(&env);
        let context = |parts: &[String]| parts.iter().fold(Context::new("kind"), Context::with);
        let sealed = ring.seal(&env, &context(&kind_parts), &plain).unwrap();
        let read = Sealed::parse(sealed.as_str()).unwrap();
        prop_assert_eq!(&read, &sealed);
        prop_assert_eq!(&*ring.open(&context(&kind_parts), &read).unwrap(), &plain);
        let elsewhere = ring.open(&context(&other_parts), &read);
        prop_assert_eq!(elsewhere.is_ok(), kind_parts == other_parts);
    }
}
