// What OpenSearch's own code makes of an index and of messages: settings that it does not know end this program.
// INDEX.json as argument, messages as lines; prints the operation of each.
import org.opensearch.Version
import org.opensearch.cluster.metadata.IndexMetadata
import org.opensearch.common.settings.IndexScopedSettings
import org.opensearch.common.settings.Settings
import org.opensearch.common.xcontent.XContentHelper
import org.opensearch.common.xcontent.json.JsonXContent
import org.opensearch.index.Message
import org.opensearch.indices.IndicesModule
import org.opensearch.indices.pollingingest.mappers.IngestionMessageMapper

def read = { String text -> XContentHelper.convertToMap(JsonXContent.jsonXContent, text, true) }
def index = read(new File(args[0]).text)

def settings = Settings.builder().loadFromMap(index["settings"]).normalizePrefix("index.").build()
IndexScopedSettings.DEFAULT_SCOPED_SETTINGS.validate(settings, true)
def whole = Settings.builder().put(settings).put("index.version.created", Version.CURRENT.id as int).build()
def source = IndexMetadata.builder("images").settings(whole).build().ingestionSource

def types = IndicesModule.getMappers([]).keySet()
void check(Map mapping, Set types) {
    mapping.get("properties")?.each { name, field ->
        if ("type" in field && !(field.type in types)) throw new IllegalArgumentException("no type [$field.type]")
        check(field, types)
    }
}
check(index["mappings"], types)

def mapper = IngestionMessageMapper.create(source.mapperType.name, 0, source.mapperSettings)
System.in.eachLine { line ->
    def operation = mapper.mapAndProcess(null, null as Message, read(line)).parsedPayloadMap()
    println JsonXContent.contentBuilder().map(operation.subMap(["_id", "_version", "_op_type"]))
}
