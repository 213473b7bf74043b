//! What the program refuses with: the custom error numbers of its instructions.
//!
//! They begin at 101, above the numbers of the SPL token program (0 to 19) and the system program (0 to 8), whose
//! failures inside our instructions reach the sender with nothing but the number to tell them apart.

macro_rules! errors {
    ($( $(#[doc = $doc:literal])* $name:ident = $code:literal, )*) => {
        /// A custom program error. The number is part of the interface and never changes meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum SettlementError { $( $(#[doc = $doc])* $name = $code, )* }

        impl SettlementError {
            /// All errors, by number.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The error of a custom code, if it is one of ours.
            pub const fn from_code(code: u32) -> Option<Self> {
                match code { $( $code => Some(Self::$name), )* _ => None }
            }

            /// The number on chain.
            pub const fn code(self) -> u32 { self as u32 }

            /// One sentence for people.
            pub const fn message(self) -> &'static str {
                match self { $( Self::$name => concat!($($doc),*), )* }
            }
        }
    };
}

errors! {
    /// The instruction's data is too short, too long, or names an unknown instruction.
    MalformedData = 101,
    /// Too few accounts, or not one per entry.
    MissingAccount = 102,
    /// A required signature is missing.
    MissingSignature = 103,
    /// An account is not owned by the program that must own it.
    WrongOwner = 104,
    /// An account's length, discriminator or version is not what the slot needs.
    WrongLayout = 105,
    /// An account's address does not follow from its seeds.
    WrongAddress = 106,
    /// The signer has no right to do this.
    Unauthorised = 107,
    /// The account exists already.
    AlreadyExists = 108,
    /// The mint is not a classic SPL token of 6 decimals without freeze authority.
    BadMint = 109,
    /// A token account is of another mint or frozen, or not where payouts of this account go.
    BadTokenAccount = 110,
    /// Deposits and opens are paused.
    Paused = 111,
    /// The amount is zero or larger than what is there.
    BadAmount = 112,
    /// A sum would not fit 64 bits.
    Overflow = 113,
    /// A fee is above its maximum.
    FeeTooHigh = 114,
    /// The grace lies outside what node and config allow.
    BadGrace = 115,
    /// The nonce has been used or passed.
    NonceUsed = 116,
    /// A signer key is of small order or not a canonical point.
    WeakKey = 117,
    /// A voucher's signature does not verify strictly.
    BadSignature = 118,
    /// A voucher pays more than the channel's deposit.
    AboveDeposit = 119,
    /// An account belongs to another agent, node, operator or rent payer.
    WrongParty = 120,
    /// The channel is not in a state that allows this.
    WrongStatus = 121,
    /// The batch has no entries or too many.
    BadBatch = 122,
    /// A program account in the list is not the one that is needed.
    WrongProgram = 123,
    /// The payout delay is longer than any config may ask.
    DelayTooLong = 124,
}
