import { appendSuite } from "../append_cases.js";
import { onBackend } from "../device.js";

onBackend("cuda", appendSuite);
