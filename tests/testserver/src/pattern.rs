//! Data that looks random and can be computed again at any place, and a checksum.

/// Word number `index` of the stream `seed`: splitmix64, which needs no state between the words.
pub fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The first `len` bytes of the stream `seed`.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len.div_ceil(8) as u64).flat_map(|i| word(seed, i).to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// FNV-1a with 64 bits.
#[derive(Debug, Clone, Copy)]
pub struct Fnv(pub u64);

impl Fnv {
    /// The checksum of nothing.
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds `data`.
    pub fn add(&mut self, data: &[u8]) {
        for byte in data {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        // The reference implementation's first outputs for seed 0 (prng.di.unimi.it/splitmix64.c).
        assert_eq!([word(0, 0), word(0, 1)], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
        let mut sum = Fnv::new();
        sum.add(b"foobar");
        assert_eq!(sum.0, 0x8594_4171_f739_67e8);
        assert_eq!(bytes(0, 9)[..8], 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
    }
}
