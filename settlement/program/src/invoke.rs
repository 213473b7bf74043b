//! Calls to other programs, over the C form of the syscall.
//!
//! Pinocchio's own helper holds a compiler fence, which the BPF back end of LLVM cannot translate.

use pinocchio::{
    AccountView, Address, ProgramResult,
    cpi::{CpiAccount, Signer},
    error::ProgramError,
    instruction::InstructionAccount,
};

/// How the called program may use an account.
#[derive(Clone, Copy)]
pub enum Use {
    /// Reads it.
    Read,
    /// Changes it.
    Write,
    /// Relies on its signature.
    Sign,
    /// Changes it and relies on its signature.
    WriteSign,
}

/// Calls `program` with `data` and these accounts, signing for the addresses that `signers` derive. A failure of
/// the called program ends the transaction.
///
/// # Errors
/// [`ProgramError::AccountBorrowFailed`] if one of the accounts is still borrowed here.
#[inline(always)]
pub fn invoke_signed<const N: usize>(
    program: &Address,
    data: &[u8],
    accounts: [(&AccountView, Use); N],
    signers: &[Signer<'_, '_>],
) -> ProgramResult {
    if accounts.iter().any(|(account, _)| account.is_borrowed()) {
        return Err(ProgramError::AccountBorrowFailed);
    }
    let metas = accounts.map(|(account, mode)| {
        let is_writable = matches!(mode, Use::Write | Use::WriteSign);
        let is_signer = matches!(mode, Use::Sign | Use::WriteSign);
        InstructionAccount::new(account.address(), is_writable, is_signer)
    });
    let views = accounts.map(|(account, _)| CpiAccount::from(account));
    call(&Call { program, metas: &metas, data, views: &views, signers });
    Ok(())
}

struct Call<'a> {
    program: &'a Address,
    metas: &'a [InstructionAccount<'a>],
    data: &'a [u8],
    views: &'a [CpiAccount<'a>],
    signers: &'a [Signer<'a, 'a>],
}

#[cfg(any(target_os = "solana", target_arch = "bpf"))]
#[inline(never)]
fn call(call: &Call<'_>) {
    /// The instruction as the syscall reads it.
    #[repr(C)]
    struct CInstruction<'a> {
        program: *const Address,
        metas: *const InstructionAccount<'a>,
        metas_len: u64,
        data: *const u8,
        data_len: u64,
    }
    let instruction = CInstruction {
        program: call.program,
        metas: call.metas.as_ptr(),
        metas_len: call.metas.len() as u64,
        data: call.data.as_ptr(),
        data_len: call.data.len() as u64,
    };
    // SAFETY: all pointers come from live slices with their lengths, in the layouts that the syscall documents;
    // no account among them is borrowed, so the callee's writes meet no reference of ours.
    unsafe {
        pinocchio::syscalls::sol_invoke_signed_c(
            (&raw const instruction).cast(),
            call.views.as_ptr().cast(),
            call.views.len() as u64,
            call.signers.as_ptr().cast(),
            call.signers.len() as u64,
        );
    }
}

#[cfg(not(any(target_os = "solana", target_arch = "bpf")))]
fn call(call: &Call<'_>) {
    core::hint::black_box((call.program, call.metas, call.data, call.views, call.signers));
}
