/** Prints 1 where CMake can build kvasir and 0 where gyp has to: the one question of binding.gyp. */
import { haveCmake } from "./toolchain.mjs";

console.log(haveCmake() ? 1 : 0);
