//! How a struct becomes fixed bytes: one macro for accounts, instruction data and batch entries.

/// One field of a layout, as data: what generators of clients in other languages read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldInfo {
    /// Its name.
    pub name: &'static str,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// Its length in bytes.
    pub len: usize,
    /// Its Rust type as written: `u8`, `u16`, `u32`, `u64`, `i64`, `Key` (32 bytes) or `[u8; N]`. Integers are
    /// little-endian.
    pub ty: &'static str,
    /// What it means, one line of documentation each.
    pub docs: &'static [&'static str],
}

/// A value with a fixed little-endian encoding.
pub(crate) trait Field: Sized {
    const LEN: usize;
    /// Reads from exactly `LEN` bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Writes to exactly `LEN` bytes.
    fn write(&self, bytes: &mut [u8]);
}

macro_rules! integer_field {
    ($($ty:ty),*) => {$(
        impl Field for $ty {
            const LEN: usize = size_of::<$ty>();
            #[inline(always)]
            fn read(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$ty>()];
                raw.copy_from_slice(bytes);
                <$ty>::from_le_bytes(raw)
            }
            #[inline(always)]
            fn write(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
integer_field!(u8, u16, u32, u64, i64);

impl<const N: usize> Field for [u8; N] {
    const LEN: usize = N;
    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        let mut raw = [0; N];
        raw.copy_from_slice(bytes);
        raw
    }
    #[inline(always)]
    fn write(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(self);
    }
}

/// Declares a struct with a fixed layout: every field at a written offset, offsets checked at compile time to
/// be gapless and to end at the written length. Generates the decoded struct, and a `View` over borrowed bytes
/// whose getters and setters touch one field each (for the program, where decoding all would cost compute). The
/// layout itself is data too: `FIELDS`.
macro_rules! layout {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident / $view:ident [$len:literal] {
            $( $(#[doc = $fdoc:literal])* $field:ident / $set:ident : $ty:ty = $off:literal, )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $( $(#[doc = $fdoc])* pub $field: $ty, )* }

        impl $name {
            /// Encoded length in bytes.
            pub const LEN: usize = $len;

            /// Every field in order, without gaps.
            pub const FIELDS: &'static [$crate::FieldInfo] = &[ $( $crate::FieldInfo {
                name: stringify!($field),
                offset: $off,
                len: <$ty as $crate::layout::Field>::LEN,
                ty: stringify!($ty),
                docs: &[ $( $fdoc ),* ],
            }, )* ];

            /// What it is, one line of documentation each.
            pub const DOCS: &'static [&'static str] = &[ $( $doc ),* ];

            /// Reads the fields; the caller has checked whatever tag the bytes carry.
            #[inline(always)]
            pub fn from_bytes(bytes: &[u8; $len]) -> Self {
                Self { $( $field: <$ty as $crate::layout::Field>::read(
                    &bytes[$off..$off + <$ty as $crate::layout::Field>::LEN]), )* }
            }

            /// Encodes the fields at their offsets.
            #[inline(always)]
            pub fn to_bytes(&self) -> [u8; $len] {
                let mut bytes = [0; $len];
                $( $crate::layout::Field::write(
                    &self.$field, &mut bytes[$off..$off + <$ty as $crate::layout::Field>::LEN]); )*
                bytes
            }
        }

        #[doc = concat!("[`", stringify!($name), "`] in place: reads and writes one field at a time.")]
        pub struct $view<'a>(&'a mut [u8; $len]);

        impl<'a> $view<'a> {
            /// Looks at bytes whose tag the caller has checked.
            #[inline(always)]
            pub fn new(bytes: &'a mut [u8; $len]) -> Self { Self(bytes) }
            $(
                $(#[doc = $fdoc])*
                #[inline(always)]
                pub fn $field(&self) -> $ty {
                    <$ty as $crate::layout::Field>::read(
                        &self.0[$off..$off + <$ty as $crate::layout::Field>::LEN])
                }
                #[doc = concat!("Writes `", stringify!($field), "`.")]
                #[inline(always)]
                pub fn $set(&mut self, value: $ty) {
                    $crate::layout::Field::write(
                        &value, &mut self.0[$off..$off + <$ty as $crate::layout::Field>::LEN])
                }
            )*
        }

        const _: () = {
            let mut next = 0;
            $(
                assert!(next == $off, concat!("gap or overlap before ", stringify!($field)));
                next += <$ty as $crate::layout::Field>::LEN;
            )*
            assert!(next == $len, concat!(stringify!($name), " does not end at its length"));
        };
    };
}
pub(crate) use layout;
