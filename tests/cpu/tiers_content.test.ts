import { onBackend } from "../device.js";
import { contentCases } from "../tiers/content_cases.js";

onBackend("cpu", (device) => contentCases(device, 400 << 20));
