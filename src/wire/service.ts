/** `org.varlink.service`, which every Varlink server answers: who it is, and its interfaces as text. */
import { INTERFACE_NAME, INTERFACE_TEXT } from '../protocol/interface.js'
import { type Request, SERVICE_INTERFACE } from '../protocol/messages.js'

const SERVICE_TEXT = `interface org.varlink.service
method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)
method GetInterfaceDescription(interface: string) -> (description: string)
error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
`

/** The answer, when `request` is not one of our own interface. */
export function serviceAnswer({ method, parameters }: Request, version: string): object | undefined {
  const name = method.slice(method.lastIndexOf('.') + 1)
  const prefix = method.slice(0, Math.max(method.lastIndexOf('.'), 0))
  if (prefix === INTERFACE_NAME) return undefined
  if (prefix !== SERVICE_INTERFACE) return notFound('Interface', prefix)
  if (name === 'GetInfo') {
    const interfaces = [SERVICE_INTERFACE, INTERFACE_NAME]
    return { parameters: { vendor: 'liveupdate', product: 'luod', version, url: '', interfaces } }
  }
  if (name !== 'GetInterfaceDescription') return notFound('Method', method)
  const wanted = parameters.interface
  if (wanted === INTERFACE_NAME) return { parameters: { description: INTERFACE_TEXT } }
  if (wanted === SERVICE_INTERFACE) return { parameters: { description: SERVICE_TEXT } }
  return notFound('Interface', String(wanted))
}

export function notFound(what: 'Method' | 'Interface', name: string): object {
  return { error: `${SERVICE_INTERFACE}.${what}NotFound`, parameters: { [what.toLowerCase()]: name } }
}
