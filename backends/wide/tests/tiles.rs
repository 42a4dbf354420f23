//! Products of tiles give the interpreter's bits on this machine, if it has tile registers: the emulated CPU has none.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod support;
#[path = "support/tiles.rs"]
mod tiles;

use support::{differences, memories};
use tenon_base::DType;
use tenon_target::Target;
use tenon_wide::{Unsupported, compile};

/// Asks the system for tile registers, as the entry point of an artifact does; whether it gives them.
fn granted() -> bool {
    let refused: i64;
    // SAFETY: the system call arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) touches no memory, and the registers that a call changes
    // are named.
    unsafe {
        std::arch::asm!(
            "syscall", inlateout("rax") 158i64 => refused, in("rdi") 0x1023, in("rsi") 18, out("rcx") _, out("r11") _,
            options(nostack)
        );
    }
    refused == 0
}

#[test]
fn products_of_tiles_give_the_interpreters_bits() {
    let target = Target::parse("sapphire-rapids").unwrap();
    let host = tenon_target::host().unwrap();
    let runs = target.missing_on(&host).is_empty() && granted();
    if !runs {
        println!("compiled only: this machine lacks {:?}", target.missing_on(&host));
    }
    for (seed, k) in tiles::kernels().iter().enumerate() {
        let code = compile(k, &target).unwrap_or_else(|e| panic!("{e}\n{k}"));
        if runs {
            let found = differences(k, &code, &memories(k, seed as u64));
            assert!(found.is_empty(), "{} wrong, first {:?}\n{k}", found.len(), found[0]);
        }
    }
}

#[test]
fn machines_without_tiles_leave_them_to_the_general_generator() {
    for name in ["zen4", "x86_64-windows/sapphire-rapids", "x86_64-linux/sapphire-rapids-amx-tile"] {
        let target = Target::parse(name).unwrap();
        assert!(!target.has_tiles(DType::U8) && !target.has_tiles(DType::BF16), "{name}");
        let refused = compile(&tiles::kernels()[0], &target);
        assert!(matches!(refused, Err(Unsupported::Operation(_))), "{name}: {refused:?}");
    }
}
