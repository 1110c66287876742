import { onBackend } from "../device.js";
import { mergeSuite } from "../merge_cases.js";

onBackend("cuda", mergeSuite);
