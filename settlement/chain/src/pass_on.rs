//! A chain in front of another, for twins that change little: [`pass_on`] writes what they do not change.

/// Methods of a [`ChainClient`](crate::ChainClient) that a field of `self` answers, inside an `#[async_trait]` impl.
///
/// ```
/// use settlement_chain::{Account, AccountFilter, Address, Blockhash, ChainClient, ChainError};
/// use settlement_chain::{Signature, Simulation, Statuses, VersionedTransaction, pass_on};
///
/// struct Deaf<C>(C);
///
/// #[async_trait::async_trait]
/// impl<C: ChainClient> ChainClient for Deaf<C> {
///     pass_on!(0: genesis_hash, accounts, program_accounts, latest_blockhash, statuses, simulate, recent_fees);
///
///     async fn send(&self, _: &VersionedTransaction) -> Result<Signature, ChainError> {
///         Err(ChainError::Unreachable("nobody listens".into()))
///     }
/// }
/// ```
#[macro_export]
macro_rules! pass_on {
    ($inner:tt: $($method:ident),+ $(,)?) => { $($crate::pass_on!(@ $inner $method);)+ };
    (@ $inner:tt genesis_hash) => { $crate::pass_on!(@fn $inner genesis_hash() -> [u8; 32]); };
    (@ $inner:tt accounts) => {
        $crate::pass_on!(@fn $inner accounts(addresses: &'b [$crate::Address]) -> Vec<Option<$crate::Account>>);
    };
    (@ $inner:tt program_accounts) => {
        $crate::pass_on!(@fn $inner program_accounts(program: &'b $crate::Address, filter: &'c $crate::AccountFilter)
            -> Vec<($crate::Address, $crate::Account)>);
    };
    (@ $inner:tt latest_blockhash) => { $crate::pass_on!(@fn $inner latest_blockhash() -> $crate::Blockhash); };
    (@ $inner:tt send) => {
        $crate::pass_on!(@fn $inner send(transaction: &'b $crate::VersionedTransaction) -> $crate::Signature);
    };
    (@ $inner:tt statuses) => {
        $crate::pass_on!(@fn $inner statuses(signatures: &'b [$crate::Signature]) -> $crate::Statuses);
    };
    (@ $inner:tt simulate) => {
        $crate::pass_on!(@fn $inner simulate(transaction: &'b $crate::VersionedTransaction) -> $crate::Simulation);
    };
    (@ $inner:tt recent_fees) => {
        $crate::pass_on!(@fn $inner recent_fees(writable: &'b [$crate::Address]) -> Vec<u64>);
    };
    (@ $inner:tt clock) => { $crate::pass_on!(@fn $inner clock() -> i64); };
    // As async_trait writes it: it does not look into macros.
    (@fn $inner:tt $method:ident() -> $value:ty) => {
        fn $method<'a, 'async_trait>(&'a self) -> $crate::Answer<'async_trait, $value>
        where
            'a: 'async_trait,
            Self: 'async_trait,
        {
            self.$inner.$method()
        }
    };
    (@fn $inner:tt $method:ident($one:ident: $a:ty) -> $value:ty) => {
        fn $method<'a, 'b, 'async_trait>(&'a self, $one: $a) -> $crate::Answer<'async_trait, $value>
        where
            'a: 'async_trait,
            'b: 'async_trait,
            Self: 'async_trait,
        {
            self.$inner.$method($one)
        }
    };
    (@fn $inner:tt $method:ident($one:ident: $a:ty, $two:ident: $b:ty) -> $value:ty) => {
        fn $method<'a, 'b, 'c, 'async_trait>(&'a self, $one: $a, $two: $b) -> $crate::Answer<'async_trait, $value>
        where
            'a: 'async_trait,
            'b: 'async_trait,
            'c: 'async_trait,
            Self: 'async_trait,
        {
            self.$inner.$method($one, $two)
        }
    };
}
