import { onBackend } from "../device.js";
import { contentCases } from "../tiers/content_cases.js";

onBackend("cuda", (device) => contentCases(device, 4 * 2 ** 30));
