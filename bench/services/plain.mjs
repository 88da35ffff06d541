/** The app alone: under pm2, or under a supervisor that stops it and starts it again. */
import { closeGracefully, createApp, port } from './app.mjs'

const server = createApp()
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => closeGracefully(server))
server.listen(port, '127.0.0.1', () => process.send?.('ready'))
