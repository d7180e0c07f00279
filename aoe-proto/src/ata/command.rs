//! ATA opcodes, and which of them a target over AoE serves. `[AoE 5.5]`
