import { onBackend } from "../device.js";
import { transferSuite } from "../transfer_cases.js";

onBackend("cpu", (device) => transferSuite(device, device));
