/**
 * The notification protocol of systemd, sd_notify(3): one datagram to a Unix socket, which Node cannot send. A manager
 * that is gone or does not read is an error with the errno's name; nothing blocks.
 */
import { sendDatagram } from './unix.js'

/** Sends `message` ("READY=1") to the socket at `path`, or at an abstract name (`@name`). */
export function notify(path: string, message: string): void {
  sendDatagram(path, Buffer.from(message))
}
