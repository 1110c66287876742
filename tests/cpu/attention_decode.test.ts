import { attentionDecodeSuite } from "../attention_decode.js";
import { onBackend } from "../device.js";

onBackend("cpu", attentionDecodeSuite);
