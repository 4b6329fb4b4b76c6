// Holds memory of which it knows every word. A round looks at some of it, drops that and has new memory in its place, which
// the JVM must give out zeroed; it also makes much garbage, so that the heap grows, and now and then has it collected, so
// that the heap shrinks and the kernel gets memory back. Usage: Checker PORT. "round" and "all" are answered with "ok N", or
// with what is wrong.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.ServerSocket;
import java.net.Socket;

class Checker {
    static final int BLOCKS = 512;
    static final int PER_ROUND = 8;
    static final int MEAN = 16 << 10; // words: 128 KiB
    static final int GARBAGE = 64; // blocks a round

    record Block(long seed, long[] words) {
        static Block fresh(long seed) {
            long[] words = new long[1 + (int) Long.remainderUnsigned(word(seed, 0), 2 * MEAN)];
            for (int i = 0; i < words.length; i++) {
                require(words[i] == 0, "new memory: word %d of %d is %x, not zero", i, words.length, words[i]);
                words[i] = word(seed, i);
            }
            return new Block(seed, words);
        }

        void check() {
            for (int i = 0; i < words.length; i++) {
                long right = word(seed, i);
                require(words[i] == right, "block %d: word %d of %d is %x, not %x", seed, i, words.length, words[i], right);
            }
        }
    }

    final Block[] blocks = new Block[BLOCKS];
    int rounds;
    long seed;

    /** Word number i of the stream seed (splitmix64). */
    static long word(long seed, long i) {
        long z = seed + (i + 1) * 0x9e3779b97f4a7c15L;
        z = (z ^ z >>> 30) * 0xbf58476d1ce4e5b9L;
        z = (z ^ z >>> 27) * 0x94d049bb133111ebL;
        return z ^ z >>> 31;
    }

    static void require(boolean holds, String text, Object... values) {
        if (!holds) {
            throw new IllegalStateException(String.format(text, values));
        }
    }

    /** Looks at so many blocks and puts a new one in each one's place. */
    void renew(int first, int count) {
        for (int n = 0; n < count; n++) {
            int place = (first + n) % BLOCKS;
            if (blocks[place] != null) {
                blocks[place].check();
            }
            blocks[place] = Block.fresh(++seed);
        }
    }

    void round() throws Exception {
        rounds++;
        // Not one after the other: the pager's background would always have been there.
        renew(rounds * 149 % BLOCKS, PER_ROUND);
        for (int n = 0; n < GARBAGE; n++) {
            new Block(n, new long[MEAN]).words[n] = n;
        }
        if (rounds % 4 == 0) {
            System.gc();
        }
        if (rounds % 8 == 0) {
            require(new ProcessBuilder("/bin/true").start().waitFor() == 0, "/bin/true failed");
        }
    }

    String answer(String request) {
        try {
            switch (request) {
                case "round" -> round();
                case "all" -> {
                    for (Block block : blocks) {
                        block.check();
                    }
                }
                default -> require(false, "what is '%s'?", request);
            }
            return "ok";
        } catch (Exception e) {
            return e.getMessage();
        }
    }

    void serve(Socket peer) throws Exception {
        var lines = new BufferedReader(new InputStreamReader(peer.getInputStream()));
        var replies = new PrintStream(peer.getOutputStream(), true);
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String answer = answer(line);
            System.out.printf("%s %d: %s%n", line, rounds, answer);
            replies.printf("%s %d\n", answer, rounds);
        }
    }

    public static void main(String[] args) throws Exception {
        var checker = new Checker();
        checker.renew(0, BLOCKS);
        var listener = new ServerSocket(Integer.parseInt(args[0]));
        while (true) {
            try (Socket peer = listener.accept()) {
                checker.serve(peer);
            }
        }
    }
}
