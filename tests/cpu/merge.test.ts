import { mergeSuite } from "../merge_cases.js";
import { onBackend } from "../device.js";

onBackend("cpu", mergeSuite);
