//! Why a bitmap device or its write device cannot be used.

operation_error! {
    /// Why a layer could not be opened. Nothing was written.
    OpenError {
        /// The disk of the table is empty or larger than a disk can be, or its sectors would end
        /// beyond 2^64 bytes.
        DiskSize {
            /// What the table says.
            sectors: u64
        } => "no disk has {sectors} sectors at such an offset",
        /// The block size of the posted layout is no power of two from 512 to 4096.
        BlockSize {
            /// What was asked for.
            bytes: u64
        } => "{bytes} bytes are no block: it must be a power of two from 512 to 4096",
        /// The bitmap device ends before its magic does.
        BitmapTooShort {
            /// Bytes.
            needed: u64,
            /// Bytes that the device has.
            len: u64
        } => "the bitmap device has {len} bytes and needs {needed}",
        /// The bitmap device was never used: its magic is zero. [`create`](super::create) it.
        Blank => "the bitmap device was never used",
        /// Something else is where the magic should be: another disk size, or no such device.
        NotDmCow {
            /// What is there.
            word: u64
        } => "no dm-cow bitmap of such a disk: where its magic should be is {word:#018x}",
        /// Emptying it ([`rollback`](super::rollback)) was cut short: do it again.
        BeingEmptied => "the layer is being emptied: roll it back again",
        /// The bitmap was made for a disk of another size. (The posted code does not notice.)
        Length {
            /// Sectors of bitmap that are recorded.
            recorded: u64,
            /// Sectors that this disk needs.
            expected: u64
        } => "the bitmap is recorded with {recorded} sectors, the disk needs {expected}",
        /// To be written to: the write device ends before the disk does.
        DataTooShort {
            /// Bytes.
            needed: u64,
            /// Bytes that the device has.
            len: u64
        } => "the write device has {len} bytes and needs {needed}",
        /// To be written to: the posted layout cannot say which sectors are there.
        ReadOnlyLayout => "the posted layout is read only: convert the layer",
    }
}

operation_error! {
    /// Why a bitmap device was not made one. Unless the storage failed, nothing was written.
    CreateError {
        /// The disk is empty or larger than a disk can be.
        DiskSize {
            /// What was asked for.
            sectors: u64
        } => "no disk has {sectors} sectors",
        /// The device ends before the magic would.
        BitmapTooShort {
            /// Bytes.
            needed: u64,
            /// Bytes that the device has.
            len: u64
        } => "the bitmap device has {len} bytes and needs {needed}",
        /// Something is where the magic goes: perhaps a layer in use.
        Occupied {
            /// What is there.
            word: u64
        } => "the bitmap device holds {word:#018x} where its magic goes: it may be in use",
    }
}
